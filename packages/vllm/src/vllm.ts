import { CkptError, engineKey, type EngineAdapter, type EngineCall, type EngineStart } from '@ckpt/contract'
import { onAbort, type HttpLimits } from '@ckpt/utils'
import { VllmEngine, type Pause } from './engine.ts'
import { instanceOf, type Instance } from './instance.ts'
import { EngineLock } from './lock.ts'
import { checkOptions, type VllmOptions } from './options.ts'

/** Time in milliseconds for an engine to end its call after the update was aborted, before its connection is closed. */
const ABORT_GRACE_MS = 5000
/** For requests that an engine answers at once unless something is wrong. */
const QUESTION_MS = 15_000
/** The same limit, for requests before an update. */
const STATE_MS = 2000

/**
 * Updates a running vLLM server. Its workers need this project's extension (`pip install ckpt`, then
 * `VLLM_SERVER_DEV_MODE=1 vllm serve … --worker-extension-cls ckpt_worker.vllm.WorkerExtension`).
 *
 * One rank of each instance makes one call that covers all of the instance's workers. Requests are paused around it, and the prefix cache is
 * dropped. After a failure that left weights partly new the engine stays paused; the next update that succeeds resumes it.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the option. Updates fail with `ENGINE_UNREACHABLE`, `ENGINE_UNAUTHORIZED`, `ENGINE_BUSY`,
 * `ENGINE_WORKER_ERROR`, `ENGINE_WORKER_LOST`, `ENGINE_PROTOCOL`, `UNSUPPORTED`.
 */
export function vllm(options: VllmOptions): EngineAdapter {
  checkOptions(options)
  const targetOf = (rank: number) => {
    const { url, socketPath, apiKey, tls, headers } = options
    return {
      ...(url !== undefined && { url: typeof url === 'string' ? url : url(rank) }),
      ...(socketPath !== undefined && { socketPath: typeof socketPath === 'string' ? socketPath : socketPath(rank) }),
      ...(tls !== undefined && { tls }),
      headers: { ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }), ...headers },
    }
  }
  return {
    name: 'vllm',
    ...(options.via === 'checkpoint-engine' && { protocol: 'checkpoint-engine' }),
    where: (rank) => {
      const { url, socketPath } = targetOf(rank)
      return socketPath ?? url ?? 'http://localhost'
    },
    async ready({ rank, timeoutMs, signal }) {
      const engine = new VllmEngine(targetOf(rank), options)
      await engine.healthy(rank, timeoutMs, signal)
      if (options.via === 'checkpoint-engine') return undefined
      // An engine that a different server is updating does not answer; the lock is checked later.
      return engine.state({ timeoutMs: Math.min(timeoutMs, STATE_MS), signal }).catch(() => undefined)
    },
    ...((options.via ?? 'extension') === 'extension' && {
      async prepare(start: EngineStart): Promise<EngineCall> {
        const instance = instanceOf(start.endpoints, start.rank, options.parallelSize)
        if (instance === undefined || instance.leader !== start.rank) return {}
        const key = engineKey(options.engineKey)
        const target = targetOf(start.rank)
        const engine = new VllmEngine(target, options)
        const lock = await EngineLock.take(target, engine.http.where)
        // Requests need no pause: they wait while the workers answer, and the weights stay as they are.
        const finished = new EngineUpdate(engine, options, start, { instance, pause: undefined, key }).prepare()
        const released = finished.finally(() => lock[Symbol.asyncDispose]())
        released.catch(() => undefined)
        return { finished: released }
      },
    }),
    async start(start: EngineStart): Promise<EngineCall> {
      const instance = instanceOf(start.endpoints, start.rank, options.parallelSize)
      if (instance === undefined || instance.leader !== start.rank) return {}
      // Checked before the engine is paused, because the key may be missing.
      const key = options.via === 'checkpoint-engine' ? undefined : engineKey(options.engineKey)
      const target = targetOf(start.rank)
      const engine = new VllmEngine(target, options)
      const lock = await EngineLock.take(target, engine.http.where)
      try {
        const limits = { timeoutMs: start.timeoutMs, signal: start.signal }
        const mode = options.pause ?? 'keep'
        const pause = mode === false ? undefined : await engine.pause(mode, limits)
        const finished = new EngineUpdate(engine, options, start, { instance, pause, key }).run()
        const released = finished.finally(() => lock[Symbol.asyncDispose]())
        released.catch(() => undefined) // reported to those that wait for the update; this only silences the unhandled case
        return { finished: released }
      } catch (error) {
        await lock[Symbol.asyncDispose]()
        throw error
      }
    },
  }
}

/** One instance's part of one update, from the call to its workers to resuming. */
class EngineUpdate {
  readonly #engine: VllmEngine
  readonly #options: VllmOptions
  readonly #start: EngineStart
  readonly #instance: Instance
  readonly #pause: Pause | undefined
  readonly #key: string | undefined

  constructor(
    engine: VllmEngine,
    options: VllmOptions,
    start: EngineStart,
    {
      instance,
      pause,
      key,
    }: { readonly instance: Instance; readonly pause: Pause | undefined; readonly key: string | undefined },
  ) {
    this.#engine = engine
    this.#options = options
    this.#start = start
    this.#instance = instance
    this.#pause = pause
    this.#key = key
  }

  /** Has the workers answer their ranks' questions. */
  async prepare(): Promise<void> {
    try {
      await this.#call('ckpt_prepare')
    } catch (error) {
      throw await this.#failure(CkptError.from(error, 'ENGINE_WORKER_ERROR'))
    }
  }

  async run(): Promise<void> {
    const limits = { timeoutMs: this.#start.timeoutMs }
    try {
      await this.#call('ckpt_update')
    } catch (error) {
      const failure = await this.#failure(CkptError.from(error, 'ENGINE_WORKER_ERROR'))
      if (this.#pause) await this.#resumeIfWhole()
      throw failure
    }
    try {
      // Before resuming: a request in between would use prefixes of the old weights.
      if (this.#options.resetPrefixCache ?? true) await this.#engine.resetPrefixCache(limits, () => this.#connector())
    } catch (error) {
      const failure = await this.#failure(CkptError.from(error, 'ENGINE_WORKER_ERROR'))
      if (this.#pause) this.#leavePaused('its weights are new, but it may have a cache of the old ones')
      throw failure
    }
    if (this.#pause) await this.#resume(limits)
  }

  /** The engine's connector to an outside store, as far as its workers report it. */
  async #connector(): Promise<string | null | undefined> {
    if (this.#options.via !== undefined && this.#options.via !== 'extension') return undefined
    return this.#engine.connector({ timeoutMs: QUESTION_MS })
  }

  /**
   * Makes the workers' own call. An abort reaches them through the worker protocol; the connection is closed only if that does
   * not end the call.
   */
  async #call(method: 'ckpt_update' | 'ckpt_prepare'): Promise<void> {
    const { signal } = this.#start
    const late = new AbortController()
    let timer: NodeJS.Timeout | undefined
    const stopListening = onAbort(signal, () => (timer = setTimeout(() => late.abort(signal.reason), ABORT_GRACE_MS)))
    try {
      const answers = await this.#ask(method, { signal: late.signal })
      const workers = this.#instance.endpoints.length
      if (answers !== undefined && answers.length !== workers) {
        const text = `the engine at ${this.#engine.http.where} has ${answers.length} workers, but parallelSize is ${workers}`
        throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'parallelSize' } })
      }
    } finally {
      clearTimeout(timer)
      stopListening()
    }
  }

  async #ask(method: 'ckpt_update' | 'ckpt_prepare', limits: { signal: AbortSignal }): Promise<readonly unknown[] | undefined> {
    const { endpoints } = this.#instance
    const { via = 'extension' } = this.#options
    if (via === 'checkpoint-engine') {
      const addresses = Object.fromEntries(endpoints.map(({ deviceUuid, address }) => [deviceUuid, address]))
      return this.#engine.rpc('update_weights_from_ipc', [addresses], limits)
    }
    if (via === 'extension') return this.#engine.rpc(method, [this.#body()], limits)
    await this.#engine.post('/init_weight_transfer_engine', { init_info: {} }, limits)
    await this.#engine.post('/start_weight_update', undefined, limits)
    await this.#engine.post('/update_weights', { update_info: { call: this.#body() } }, limits)
    await this.#engine.post('/finish_weight_update', {}, limits)
    return undefined
  }

  /** In the form that `UpdateCall` of the Python package reads. */
  #body(): unknown {
    const { token, timeoutMs } = this.#start
    const { drafter, complete } = this.#options
    const key = this.#key
    return {
      endpoints: this.#instance.endpoints,
      token,
      timeoutMs,
      ...(key !== undefined && { key }),
      ...(drafter !== undefined && { drafter }),
      ...(complete !== undefined && { complete }),
    }
  }

  /** An engine whose worker died may answer the call with any text, but it is not healthy then. */
  async #failure(error: CkptError): Promise<CkptError> {
    const { rank } = this.#start
    if (error.code !== 'ENGINE_WORKER_ERROR' || (await this.#engine.alive(STATE_MS))) return error.with({ rank })
    const text = `the engine at ${this.#engine.http.where} has ended: ${error.message}`
    return new CkptError('ENGINE_WORKER_LOST', text, { cause: error, fields: { ...error.fields, rank } })
  }

  /** Resumes requests after a failure if all weights are of one version, and keeps them paused if not. */
  async #resumeIfWhole(): Promise<void> {
    let reason: string
    try {
      const { dirty } = await this.#engine.state({ timeoutMs: QUESTION_MS })
      if (!dirty) return await this.#resume({ timeoutMs: QUESTION_MS })
      reason = 'its weights are partly new'
    } catch (error) {
      reason = `it does not report the version of its weights: ${error instanceof Error ? error.message : String(error)}`
    }
    this.#leavePaused(reason)
  }

  /** A pause that is still being answered would follow the call to resume. */
  async #resume(limits: HttpLimits): Promise<void> {
    await this.#pause?.answered
    await this.#engine.resume(limits)
  }

  #leavePaused(reason: string): void {
    this.#options.onEvent?.({ kind: 'left-paused', reason: `the engine at ${this.#engine.http.where}: ${reason}` })
  }
}
