import {
  CkptError,
  ENGINE_HTTP_ERRORS,
  type EngineAdapter,
  type EngineCall,
  type EngineStart,
  type WorkerProtocol,
} from '@ckpt/contract'
import { z } from 'zod'
import { HttpClient, poll, type HttpLimits } from '@ckpt/utils'

const HEALTH_TIMEOUT_MS = 2000
/** Maximum delay until a starting engine is noticed. */
const HEALTH_PAUSE_MS = 50
const healthSchema = z.object({ device: z.string(), version: z.string().nullable(), dirty: z.boolean() })
const errorSchema = z.object({ error: z.object({ type: z.string(), message: z.string(), traceback: z.string().optional() }) })

export interface ControlEngineOptions {
  /** Path of the unix socket of the given rank's engine worker (docs/worker-protocol.md, "control socket"). */
  readonly socket: string | ((rank: number) => string)
  /** Protocol of the worker (default: `ckpt`). */
  readonly protocol?: WorkerProtocol
}

/**
 * An engine whose workers are separate processes, one per rank, each listening on a unix socket for `POST /update`. The
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
      let reason: unknown
      const attempt = async (leftMs: number): Promise<z.infer<typeof healthSchema> | undefined> => {
        try {
          const limits = { signal, timeoutMs: Math.min(leftMs, HEALTH_TIMEOUT_MS) }
          return healthSchema.parse(await controlRequest(socketPath, 'GET', '/health', undefined, limits))
        } catch (error) {
          reason = error
          return undefined
        }
      }
      const health = await poll(attempt, { timeoutMs, signal, longestPauseMs: HEALTH_PAUSE_MS })
      if (health !== undefined) return { version: health.version, dirty: health.dirty }
      throw new CkptError(
        'ENGINE_UNREACHABLE',
        `waited ${timeoutMs} ms for the engine worker of rank ${rank} to answer on ${socketPath} (is it running, and is this its path here?)`,
        { cause: reason, fields: { rank, peer: socketPath } },
      )
    },
    start({ rank, endpoints, token, timeoutMs, signal }: EngineStart): Promise<EngineCall> {
      const address = endpoints.find((endpoint) => endpoint.rank === rank)?.address
      if (address === undefined)
        throw new CkptError('INVALID_ARGUMENT', `no worker endpoint for rank ${rank}`, { fields: { rank } })
      const call = controlRequest(socketOf(rank), 'POST', '/update', { address, token, timeoutMs }, { signal })
      const finished = call.then(() => undefined)
      finished.catch(() => undefined) // reported to those that wait for the update; this only silences the unhandled case
      return Promise.resolve({ finished })
    },
  }
}

/**
 * Makes one JSON request to an engine worker's control socket.
 *
 * @throws CkptError `ENGINE_WORKER_ERROR` with the worker's message and traceback, `ENGINE_WORKER_LOST` if the connection
 *   breaks, `ENGINE_UNREACHABLE` if there is none, `TIMEOUT`, `ABORTED`.
 */
export async function controlRequest(
  socketPath: string,
  method: 'GET' | 'POST',
  path: string,
  body?: unknown,
  options: HttpLimits = {},
): Promise<unknown> {
  const client = new HttpClient({ socketPath }, ENGINE_HTTP_ERRORS)
  const { status, text } = await client.request(method, path, body, options)
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
