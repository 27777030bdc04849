import { CkptError, ENGINE_HTTP_ERRORS } from '@ckpt/contract'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { firstIssue, HttpClient, poll, withDeadline, type HttpLimits, type HttpTarget } from '@ckpt/utils'
import { accept, engineError } from './answers.ts'
import type { VllmEvent, VllmOptions } from './options.ts'

const HEALTH_TIMEOUT_MS = 5000
const FIRST_PAUSE_MS = 100
/** Time in milliseconds for a connector to finish moving keys and values after requests are paused. */
const MOVING_MS = 3000

const resultsSchema = z.object({ results: z.array(z.unknown()) })
const statusSchema = z
  .array(z.object({ version: z.string().nullable(), dirty: z.boolean(), connector: z.string().nullable().optional() }))
  .min(1)
const pausedSchema = z.object({ is_paused: z.boolean() })
const resetSchema = z.object({ success: z.boolean() })

/** Combined state of all workers of an engine. */
export interface EngineState {
  /** Version that all workers serve; null before the first commit, or if they differ. */
  readonly version: string | null
  /** True if any worker's parameters are not those of one complete committed version. */
  readonly dirty: boolean
}

/** A pause of an engine's scheduler. */
export interface Pause {
  readonly answered: Promise<void>
}

const noop = () => undefined
/** Deadline in milliseconds of a pause for which the caller gives none. */
const PAUSE_MS = 60_000

/** One vLLM server, by its HTTP API. */
export class VllmEngine {
  readonly http: HttpClient
  readonly #tell: (event: VllmEvent) => void

  constructor(target: HttpTarget, options: Pick<VllmOptions, 'onEvent'>) {
    this.http = new HttpClient(target, ENGINE_HTTP_ERRORS)
    this.#tell = options.onEvent ?? (() => undefined)
  }

  /**
   * Waits for `/health`. @throws CkptError `ENGINE_UNREACHABLE` after the deadline with the last reason, `ENGINE_UNAUTHORIZED`,
   * `ABORTED`.
   */
  async healthy(rank: number, timeoutMs: number, signal: AbortSignal): Promise<void> {
    const started = performance.now()
    let reason: CkptError | undefined
    const attempt = async (leftMs: number): Promise<true | undefined> => {
      reason = await this.#unhealthy(Math.min(HEALTH_TIMEOUT_MS, leftMs), signal)
      const elapsedMs = performance.now() - started
      if (reason === undefined) {
        this.#tell({ kind: 'ready', rank, elapsedMs })
        return true
      }
      if (reason.code === 'ENGINE_UNAUTHORIZED') throw reason
      if (!signal.aborted) this.#tell({ kind: 'waiting', rank, elapsedMs, reason: reason.message })
      return undefined
    }
    if (await poll(attempt, { timeoutMs, signal, firstPauseMs: FIRST_PAUSE_MS })) return
    const text = `the engine at ${this.http.where} was not ready within ${timeoutMs} ms: ${reason!.message}`
    throw new CkptError('ENGINE_UNREACHABLE', text, { cause: reason, fields: { rank, peer: this.http.where } })
  }

  /** Returns true if it reports that it is healthy. */
  async alive(timeoutMs: number): Promise<boolean> {
    return (await this.#unhealthy(timeoutMs, AbortSignal.timeout(timeoutMs))) === undefined
  }

  async #unhealthy(timeoutMs: number, signal: AbortSignal): Promise<CkptError | undefined> {
    try {
      const answer = await this.http.request('GET', '/health', undefined, { timeoutMs, signal })
      return answer.status === 200 ? undefined : engineError('GET /health', this.http.where, answer)
    } catch (error) {
      return CkptError.from(error, 'ENGINE_UNREACHABLE')
    }
  }

  /** Calls a method of every worker and returns their answers. */
  async rpc(method: string, args: readonly unknown[], limits: HttpLimits): Promise<readonly unknown[]> {
    const value = await this.post('/collective_rpc', { method, args }, limits)
    if (value === undefined) return []
    return this.#parse(resultsSchema, '/collective_rpc', value).results
  }

  /** Returns the state that the workers report. */
  async state(limits: HttpLimits): Promise<EngineState> {
    const workers = await this.#statuses(limits)
    const version = workers[0]!.version
    return {
      version: workers.every((worker) => worker.version === version) ? version : null,
      dirty: workers.some((worker) => worker.dirty),
    }
  }

  /**
   * Returns the class that moves keys and values to a store outside the engine (`--kv-transfer-config`); null for none,
   * undefined if workers do not report it.
   */
  async connector(limits: HttpLimits): Promise<string | null | undefined> {
    const workers = await this.#statuses(limits)
    return workers.find((worker) => typeof worker.connector === 'string')?.connector ?? workers[0]!.connector
  }

  async #statuses(limits: HttpLimits): Promise<z.infer<typeof statusSchema>> {
    return this.#parse(statusSchema, 'ckpt_status', await this.rpc('ckpt_status', [], limits))
  }

  /**
   * Stops scheduling requests; resolves when none is scheduled any more. Undefined if this version does not support it.
   * `answered` resolves when the engine has answered the request, and must precede the call to resume.
   */
  async pause(mode: 'keep' | 'wait' | 'abort', limits: HttpLimits): Promise<Pause | undefined> {
    const { timeoutMs = PAUSE_MS, signal } = limits
    // Not aborted in mode `keep`: its answer comes soon, and a resume must not come before it.
    const answered = this.#optional('pause', `/pause?mode=${mode}`, mode === 'keep' ? { timeoutMs } : limits)
    const over = answered.then(noop, noop)
    // vLLM answers 20 ms after its scheduler has stopped (0.26), for the sake of outputs that are under way.
    if (mode === 'keep' && (await this.#stopped(answered, limits))) return { answered: over }
    const there = await withDeadline(answered, { what: `the engine at ${this.http.where} to pause`, timeoutMs, signal })
    return there ? { answered: over } : undefined
  }

  /** Asks the scheduler until it has stopped. Returns false if `answered` is the one to wait for. */
  async #stopped(answered: Promise<boolean>, limits: HttpLimits): Promise<boolean> {
    const state = { over: false }
    const end = () => void (state.over = true)
    answered.then(end, end)
    while (!state.over) {
      const paused = await this.#isPaused(limits).catch(() => undefined)
      if (paused !== false) return paused === true
    }
    return false
  }

  async #isPaused(limits: HttpLimits): Promise<boolean> {
    const answer = await this.http.request('GET', '/is_paused', undefined, limits)
    return this.#parse(pausedSchema, '/is_paused', accept('GET /is_paused', this.http.where, answer)).is_paused
  }

  async resume(limits: HttpLimits): Promise<void> {
    await this.post('/resume', undefined, limits)
  }

  /**
   * Drops cached prefixes: those of running requests, and those that a connector keeps outside the engine. Otherwise keys and
   * values of the old weights would return from there. `connector` names it, if the engine has one. @throws CkptError
   * `ENGINE_WORKER_ERROR` if the engine could not drop them.
   */
  async resetPrefixCache(limits: HttpLimits, connector: () => Promise<string | null | undefined>): Promise<void> {
    const own = '/reset_prefix_cache?reset_running_requests=true'
    if ((await this.#reset(`${own}&reset_external=true`, limits)) !== 'kept') return
    // Versions whose engine has no connector may answer the same: either the outside or the inside reset has failed.
    if ((await this.#reset(own, limits)) === 'kept') throw this.#kept('its prefix cache: some of its blocks are in use')
    const name = await connector()
    if (name === null) return
    // Blocks that a connector is moving are in use until they have arrived.
    for (let waitedMs = 0; name !== undefined && waitedMs < MOVING_MS; waitedMs += FIRST_PAUSE_MS) {
      await sleep(FIRST_PAUSE_MS)
      if ((await this.#reset(`${own}&reset_external=true`, limits)) !== 'kept') return
    }
    if (name !== undefined) throw this.#kept(`the keys and values that its connector ${name} keeps outside of it`)
    const reason = `the engine at ${this.http.where} did not drop keys and values outside of it, if it has a connector that keeps any`
    this.#tell({ kind: 'unsupported', feature: 'external cache reset', reason })
  }

  async #reset(path: string, limits: HttpLimits): Promise<'dropped' | 'kept' | 'unsupported'> {
    let outcome: 'dropped' | 'kept' = 'dropped'
    const there = await this.#optional('prefix cache reset', path, limits, (value) => {
      const { success } = this.#parse(resetSchema, path, value ?? { success: true }) // older versions answer nothing
      outcome = success ? 'dropped' : 'kept'
    })
    return there ? outcome : 'unsupported'
  }

  #kept(what: string): CkptError {
    const text = `the engine at ${this.http.where} could not drop ${what}`
    return new CkptError('ENGINE_WORKER_ERROR', text, { fields: { peer: this.http.where } })
  }

  /**
   * Makes one POST request and returns the answer's JSON. @throws CkptError as for `engineError`, and the errors of the
   * connection.
   */
  async post(path: string, body: unknown, limits: HttpLimits): Promise<unknown> {
    return accept(`POST ${path}`, this.http.where, await this.http.request('POST', path, body, limits))
  }

  async #optional(
    feature: 'pause' | 'prefix cache reset',
    path: string,
    limits: HttpLimits,
    check: (value: unknown) => void = () => undefined,
  ): Promise<boolean> {
    try {
      check(await this.post(path, undefined, limits))
      return true
    } catch (error) {
      if (!CkptError.is(error, 'UNSUPPORTED')) throw error
      this.#tell({ kind: 'unsupported', feature, reason: error.message })
      return false
    }
  }

  #parse<T>(schema: z.ZodType<T>, what: string, value: unknown): T {
    const parsed = schema.safeParse(value)
    if (parsed.success) return parsed.data
    const { field, message } = firstIssue(parsed.error)
    const text = `${what} on ${this.http.where} answered something unexpected: ${field}: ${message}`
    throw new CkptError('ENGINE_PROTOCOL', text, { fields: { peer: this.http.where, field } })
  }
}
