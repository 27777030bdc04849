import { CkptError, type EngineAdapter, type EngineCall, type EngineStart } from '@ckpt/contract'
import { Agent, request } from 'undici'
import { abortError } from '@ckpt/utils'
import type { UpdateRequest } from './schemas.ts'

/** What an engine may answer, in bytes: an error page. */
const MAX_ANSWER = 2 ** 20

/**
 * The engine of an update request: its workers run checkpoint-engine's stock extension, and are started by one
 * `{ method, args, timeout }` to `update_url`, as vLLM's `/collective_rpc` takes it. Without `update_url` another rank makes that call.
 */
export function collectiveCall(
  body: Pick<UpdateRequest, 'update_url' | 'inference_group_ranks' | 'timeout' | 'uds'>,
): EngineAdapter {
  return {
    name: 'collective-rpc',
    protocol: 'checkpoint-engine',
    ready: () => Promise.resolve(),
    start(start: EngineStart): Promise<EngineCall> {
      const { update_url: url, uds, timeout } = body
      if (url === undefined || url === null) return Promise.resolve({})
      const finished = call(
        url,
        uds ?? undefined,
        { method: 'update_weights_from_ipc', args: [handles(body, start)], timeout },
        start,
      )
      finished.catch(() => undefined) // whoever waits for the update sees it
      return Promise.resolve({ finished })
    },
  }
}

/** Where each worker of the engine connects, by its device. @throws CkptError `INVALID_ARGUMENT` for a rank that takes no part. */
function handles(body: Pick<UpdateRequest, 'inference_group_ranks'>, { endpoints }: EngineStart): Record<string, string> {
  const group = body.inference_group_ranks
  const chosen =
    group.length === 0
      ? endpoints
      : group.map((rank) => {
          const found = endpoints.find((endpoint) => endpoint.rank === rank)
          if (found) return found
          throw new CkptError('INVALID_ARGUMENT', `rank ${rank} of inference_group_ranks takes no part in the update`, {
            fields: { rank, field: 'inference_group_ranks' },
          })
        })
  return Object.fromEntries(chosen.map(({ deviceUuid, address }) => [deviceUuid, address]))
}

async function call(
  url: string,
  socketPath: string | undefined,
  body: Readonly<Record<string, unknown>> & { readonly timeout: number },
  { signal, rank }: EngineStart,
): Promise<void> {
  const peer = socketPath === undefined ? url : `${url} on ${socketPath}`
  const timeoutMs = body.timeout * 1000
  const dispatcher = new Agent({
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    ...(socketPath !== undefined && { connect: { socketPath } }),
  })
  try {
    const { statusCode, body: answer } = await request(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      dispatcher,
      signal,
    })
    let text = ''
    for await (const part of answer.setEncoding('utf8')) {
      if (text.length < MAX_ANSWER) text += String(part)
    }
    if (statusCode >= 200 && statusCode < 300) return
    const message = `${peer} answered ${statusCode}: ${text.trim().slice(0, 2000)}`
    throw new CkptError('ENGINE_WORKER_ERROR', message, { fields: { rank, peer, status: statusCode } })
  } catch (error) {
    if (signal.aborted) throw abortError(signal)
    const code = (error as { code?: unknown }).code
    if (code === 'UND_ERR_HEADERS_TIMEOUT' || code === 'UND_ERR_BODY_TIMEOUT') {
      throw new CkptError('TIMEOUT', `${peer} did not answer within ${timeoutMs} ms`, { cause: error, fields: { rank, peer } })
    }
    const lost = code === 'UND_ERR_SOCKET' || code === 'ECONNRESET'
    throw CkptError.from(error, lost ? 'ENGINE_WORKER_LOST' : 'ENGINE_UNREACHABLE', peer, { rank, peer })
  } finally {
    dispatcher.destroy().catch(() => undefined)
  }
}
