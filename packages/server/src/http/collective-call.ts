import { CkptError, ENGINE_HTTP_ERRORS, type EngineAdapter, type EngineCall, type EngineStart } from '@ckpt/contract'
import { HttpClient } from '@ckpt/utils'
import type { UpdateRequest } from './schemas.ts'

/**
 * Returns the engine of an update request: its workers run checkpoint-engine's stock extension, and are started by one `{
 * method, args, timeout }` to `update_url`, in the form of vLLM's `/collective_rpc`. Without `update_url` a different rank
 * makes that call.
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
      finished.catch(() => undefined) // reported to those that wait for the update
      return Promise.resolve({ finished })
    },
  }
}

/**
 * Returns the address for each worker of the engine, by its device. @throws CkptError `INVALID_ARGUMENT` for a rank that does
 * not take part.
 */
function handles(body: Pick<UpdateRequest, 'inference_group_ranks'>, { endpoints }: EngineStart): Record<string, string> {
  const group = body.inference_group_ranks
  const chosen =
    group.length === 0
      ? endpoints
      : group.map((rank) => {
          const found = endpoints.find((endpoint) => endpoint.rank === rank)
          if (found) return found
          throw new CkptError('INVALID_ARGUMENT', `rank ${rank} of inference_group_ranks does not take part in the update`, {
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
  const { pathname, search } = new URL(url)
  const client = new HttpClient(
    { url: new URL('/', url).href, ...(socketPath !== undefined && { socketPath }) },
    ENGINE_HTTP_ERRORS,
  )
  try {
    const { status, text } = await client.request('POST', pathname + search, body, { timeoutMs: body.timeout * 1000, signal })
    if (status >= 200 && status < 300) return
    const message = `${url} answered ${status}: ${text.trim().slice(0, 2000)}`
    throw new CkptError('ENGINE_WORKER_ERROR', message, { fields: { peer: client.where, status } })
  } catch (error) {
    throw CkptError.from(error, 'ENGINE_UNREACHABLE').with({ rank })
  }
}
