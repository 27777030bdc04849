import { request } from 'node:http'
import { CkptError, type EngineAdapter, type EngineCall, type EngineStart, type WorkerProtocol } from '@ckpt/contract'
import { z } from 'zod'
import { abortError } from '@ckpt/utils'

const healthSchema = z.object({ device: z.string(), version: z.string().nullable(), dirty: z.boolean() })
const errorSchema = z.object({ error: z.object({ type: z.string(), message: z.string(), traceback: z.string().optional() }) })

export interface ControlEngineOptions {
  /** Path of the unix socket on which the engine worker of the given rank listens (docs/worker-protocol.md, "control socket"). */
  readonly socket: string | ((rank: number) => string)
  /** What the worker speaks (default: `ckpt`). */
  readonly protocol?: WorkerProtocol
}

/**
 * An engine whose workers are processes of their own, one a rank, each listening on a unix socket for `POST /update`. The
 * reference engines are of this kind.
 */
export function controlEngine(options: ControlEngineOptions): EngineAdapter {
  const socketOf = (rank: number) => (typeof options.socket === 'string' ? options.socket : options.socket(rank))
  return {
    name: 'control',
    where: socketOf,
    ...(options.protocol && { protocol: options.protocol }),
    async ready({ rank, timeoutMs, signal }) {
      const socketPath = socketOf(rank)
      const deadline = performance.now() + timeoutMs
      for (;;) {
        try {
          const health = await controlRequest(socketPath, 'GET', '/health', undefined, { signal, timeoutMs: 2000 })
          const { version, dirty } = healthSchema.parse(health)
          return { version, dirty }
        } catch (error) {
          if (signal.aborted) throw abortError(signal)
          if (performance.now() > deadline) {
            throw new CkptError(
              'ENGINE_UNREACHABLE',
              `waited ${timeoutMs} ms for the engine worker of rank ${rank} to answer on ${socketPath} (is it running, and is this its path here?)`,
              { cause: error, fields: { rank, peer: socketPath } },
            )
          }
          await new Promise((resolve) => setTimeout(resolve, 50))
        }
      }
    },
    start({ rank, endpoints, token, timeoutMs, signal }: EngineStart): Promise<EngineCall> {
      const address = endpoints.find((endpoint) => endpoint.rank === rank)?.address
      if (address === undefined)
        throw new CkptError('INVALID_ARGUMENT', `no worker endpoint for rank ${rank}`, { fields: { rank } })
      const call = controlRequest(socketOf(rank), 'POST', '/update', { address, token, timeoutMs }, { signal })
      const finished = call.then(() => undefined)
      finished.catch(() => undefined) // whoever waits for the update sees it; here only the unhandled case is silenced
      return Promise.resolve({ finished })
    },
  }
}

/**
 * One JSON request to an engine worker's control socket.
 *
 * @throws CkptError `ENGINE_WORKER_ERROR` with the worker's message and traceback, `ENGINE_WORKER_LOST` when the connection
 *   breaks, `ENGINE_UNREACHABLE` when there is none, `TIMEOUT`, `ABORTED`.
 */
export async function controlRequest(
  socketPath: string,
  method: 'GET' | 'POST',
  path: string,
  body?: unknown,
  options: { signal?: AbortSignal; timeoutMs?: number } = {},
): Promise<unknown> {
  const { signal, timeoutMs } = options
  const { status, text } = await new Promise<{ status: number; text: string }>((resolve, reject) => {
    const fail = (code: 'ENGINE_WORKER_LOST' | 'ENGINE_UNREACHABLE', error: NodeJS.ErrnoException) => {
      if (signal?.aborted) reject(abortError(signal))
      else reject(CkptError.from(error, code, `${method} ${path} on ${socketPath}`, { peer: socketPath }))
    }
    const outgoing = request({
      socketPath,
      method,
      path,
      // A connection of its own: one that was kept could be closed by the worker, as idle, in the moment in which it is written to.
      agent: false,
      headers: { 'content-type': 'application/json' },
      ...(signal && { signal }),
    })
    let connected = false
    outgoing.on('socket', (socket) => socket.once('connect', () => (connected = true)))
    outgoing.on('error', (error) => fail(connected ? 'ENGINE_WORKER_LOST' : 'ENGINE_UNREACHABLE', error))
    if (timeoutMs !== undefined) {
      outgoing.setTimeout(timeoutMs, () => {
        reject(
          new CkptError('TIMEOUT', `${method} ${path} on ${socketPath}: no answer within ${timeoutMs} ms`, {
            fields: { peer: socketPath },
          }),
        )
        outgoing.destroy()
      })
    }
    outgoing.on('response', (response) => {
      const parts: Buffer[] = []
      response.on('data', (part: Buffer) => parts.push(part))
      response.on('error', (error) => fail('ENGINE_WORKER_LOST', error))
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text: Buffer.concat(parts).toString() }))
    })
    outgoing.end(body === undefined ? undefined : JSON.stringify(body))
  })
  let answer: unknown
  try {
    answer = JSON.parse(text)
  } catch (error) {
    throw new CkptError(
      'ENGINE_PROTOCOL',
      `${method} ${path} on ${socketPath} answered ${status} with something that is not JSON`,
      {
        cause: error,
        fields: { peer: socketPath },
      },
    )
  }
  if (status < 400) return answer
  const parsed = errorSchema.safeParse(answer)
  const error = parsed.success ? parsed.data.error : { type: 'unknown', message: text.slice(0, 500), traceback: undefined }
  throw new CkptError(
    'ENGINE_WORKER_ERROR',
    `${method} ${path} on ${socketPath} answered ${status}: ${error.type}: ${error.message}`,
    {
      fields: { peer: socketPath, status, ...(error.traceback !== undefined && { traceback: error.traceback }) },
    },
  )
}
