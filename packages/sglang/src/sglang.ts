import {
  CkptError,
  engineKey,
  type EngineAdapter,
  type EngineCall,
  type EngineStart,
  type WorkerEndpoint,
} from '@ckpt/contract'
import type { HttpLimits } from '@ckpt/utils'
import { z } from 'zod'
import { checkOptions, type SglangOptions } from './options.ts'
import { SglangServer } from './server.ts'

/** For requests that an engine answers at once unless something is wrong. */
const QUESTION_MS = 15_000

/** Answer of this project's plug-in about its worker's state. */
const stateSchema = z.object({ version: z.string().nullable(), dirty: z.boolean() })
type State = z.infer<typeof stateSchema>

/** Options of one update, with the key that its workers require. */
type UpdateOptions = SglangOptions & { readonly key: string | undefined }

/**
 * Updates running SGLang servers through `/update_weights_from_ipc`. One rank of each server makes the single call that covers
 * all of its workers: it pauses requests, has the workers take the weights, and resumes requests.
 *
 * SGLang's report of success is not sufficient. An update succeeds only if every worker's own session also succeeded, including
 * digests with the protocol `ckpt`, and if the server then reports the new version. After a failure the server stays paused,
 * because its weights may be partly new; the next successful update resumes requests.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the option. Updates fail with `ENGINE_UNREACHABLE`, `ENGINE_UNAUTHORIZED`,
 * `ENGINE_WORKER_ERROR`, `ENGINE_WORKER_LOST`, `ENGINE_PROTOCOL`, `TIMEOUT`.
 */
export function sglang(options: SglangOptions): EngineAdapter {
  checkOptions(options)
  const protocol = options.protocol ?? 'checkpoint-engine'
  return {
    name: 'sglang',
    protocol,
    where: (rank) => (typeof options.url === 'string' ? options.url : options.url(rank)),
    async ready({ rank, timeoutMs, signal }) {
      await new SglangServer(options, rank).listening(rank, { timeoutMs, signal })
    },
    async start(start: EngineStart): Promise<EngineCall> {
      const own = endpointsOfServer(start, options.parallelSize)
      if (own?.[0]!.rank !== start.rank) return {}
      // Checked before the engine is paused, because the key may be missing.
      const key = protocol === 'ckpt' ? engineKey(options.engineKey) : undefined
      const server = new SglangServer(options, start.rank)
      const finished = update(server, start, own, { ...options, protocol, key })
      finished.catch(() => undefined) // reported to those that wait for the update; this only silences the unhandled case
      return Promise.resolve({ finished })
    },
  }
}

async function update(
  server: SglangServer,
  start: EngineStart,
  endpoints: readonly WorkerEndpoint[],
  options: UpdateOptions,
): Promise<void> {
  const limits = { timeoutMs: start.timeoutMs, signal: start.signal }
  const { pause = 'retract', flushCache = pause !== 'in_place' } = options
  if (pause === 'none') {
    await take(server, start, endpoints, options, flushCache)
    if (flushCache) await server.clearStorage(limits)
    return
  }
  await server.pause(pause, limits)
  try {
    await take(server, start, endpoints, options, false)
  } catch (error) {
    await resumeIfWhole(server, options)
    throw error
  }
  // Separate from the update, to distinguish a cache that SGLang keeps from weights that it did not take. With a cache of the
  // old weights it stays paused.
  if (flushCache) {
    await server.flushCache(limits)
    await server.clearStorage(limits)
  }
  await server.resume(limits)
}

/** Makes the workers take the weights, then asks the server for its version. */
async function take(
  server: SglangServer,
  { signal, timeoutMs, token, version }: EngineStart,
  endpoints: readonly WorkerEndpoint[],
  options: UpdateOptions,
  flushCache: boolean,
): Promise<void> {
  await server.updateWeights(
    {
      zmq_handles: handles({ token, timeoutMs }, endpoints, options),
      flush_cache: flushCache,
      ...(version !== undefined && { weight_version: version }),
    },
    { timeoutMs, signal },
  )
  const limits = { timeoutMs: QUESTION_MS, signal }
  const served = await server.weightVersion(limits)
  if (version !== undefined && served !== version)
    throw disagrees(server, `the server reports version ${served}, not ${version}`)
  if (options.protocol !== 'ckpt') return
  for (const state of await workerStates(server, options, limits)) {
    if (state.dirty || (version !== undefined && state.version !== version))
      throw disagrees(server, `a worker reports ${JSON.stringify(state)}`)
  }
}

function disagrees(server: SglangServer, what: string): CkptError {
  const text = `${server.where} reported success, but ${what}`
  return new CkptError('ENGINE_WORKER_ERROR', text, { fields: { peer: server.where } })
}

/**
 * Resumes requests after a failure only if the workers report that their weights are of one version, which our plug-in's can.
 */
async function resumeIfWhole(server: SglangServer, options: UpdateOptions): Promise<void> {
  if (options.protocol !== 'ckpt') return
  const limits = { timeoutMs: QUESTION_MS }
  try {
    const states = await workerStates(server, options, limits)
    if (states.every(({ dirty }) => !dirty)) await server.resume(limits)
  } catch {
    // It stays paused, and the update's own error is thrown.
  }
}

async function workerStates(server: SglangServer, options: UpdateOptions, limits: HttpLimits): Promise<readonly State[]> {
  const question = options.key === undefined ? {} : { key: options.key }
  const handles = { 'ckpt-status': JSON.stringify(question) }
  return statesIn(await server.updateWeights({ zmq_handles: handles, flush_cache: false }, limits))
}

/** SGLang joins its workers' answers with ` | `. */
function statesIn(message: string): State[] {
  return message.split(' | ').map((part) => {
    try {
      return stateSchema.parse(JSON.parse(part))
    } catch {
      return { version: null, dirty: true }
    }
  })
}

/** Returns the address for each worker: by device, or in the form that this project's plug-in reads. */
function handles(
  { token, timeoutMs }: Pick<EngineStart, 'token' | 'timeoutMs'>,
  endpoints: readonly WorkerEndpoint[],
  { protocol, key }: UpdateOptions,
): Record<string, string> {
  if (protocol !== 'ckpt') return Object.fromEntries(endpoints.map(({ deviceUuid, address }) => [deviceUuid, address]))
  const call = { endpoints, token, timeoutMs, ...(key !== undefined && { key }) }
  return { ckpt: JSON.stringify(call) }
}

/**
 * Returns the endpoints of the rank's server, ascending; undefined for a rank that does not take part. @throws CkptError
 * `INVALID_ARGUMENT`.
 */
function endpointsOfServer({ endpoints, rank }: EngineStart, parallelSize: number): readonly WorkerEndpoint[] | undefined {
  if (endpoints.length % parallelSize !== 0) {
    const ranks = endpoints.map((endpoint) => endpoint.rank)
    const text = `${ranks.length} ranks do not form whole SGLang servers of ${parallelSize} ranks`
    throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'parallelSize', ranks } })
  }
  const at = endpoints.findIndex((endpoint) => endpoint.rank === rank)
  if (at === -1) return undefined
  const first = at - (at % parallelSize)
  return endpoints.slice(first, first + parallelSize)
}
