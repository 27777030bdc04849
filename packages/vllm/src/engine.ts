import { CkptError } from '@ckpt/contract'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { accept, engineError } from './answers.ts'
import { EngineHttp, type RequestLimits, type Target } from './http.ts'
import type { VllmEvent, VllmOptions } from './options.ts'

const HEALTH_TIMEOUT_MS = 5000
const FIRST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 1000

const resultsSchema = z.object({ results: z.array(z.unknown()) })
const statusSchema = z.array(z.object({ version: z.string().nullable(), dirty: z.boolean() })).min(1)
const resetSchema = z.object({ success: z.boolean() })

/** What all workers of an engine say of themselves. */
export interface EngineState {
  /** The version that all workers serve; null before the first commit, or where they differ. */
  readonly version: string | null
  /** Whether any worker's parameters hold anything but a whole committed version. */
  readonly dirty: boolean
}

/** One vLLM server, by its HTTP API. */
export class VllmEngine {
  readonly http: EngineHttp
  readonly #tell: (event: VllmEvent) => void

  constructor(target: Target, options: Pick<VllmOptions, 'onEvent'>) {
    this.http = new EngineHttp(target)
    this.#tell = options.onEvent ?? (() => undefined)
  }

  /** Waits for `/health`. @throws CkptError `ENGINE_UNREACHABLE` past the deadline with the last reason, `ENGINE_UNAUTHORIZED`, `ABORTED`. */
  async healthy(rank: number, timeoutMs: number, signal: AbortSignal): Promise<void> {
    const started = performance.now()
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
      const left = timeoutMs - (performance.now() - started)
      const reason = await this.#unhealthy(Math.max(1, Math.min(HEALTH_TIMEOUT_MS, left)), signal)
      const elapsedMs = performance.now() - started
      if (reason === undefined) return this.#tell({ kind: 'ready', rank, elapsedMs })
      if (signal.aborted) throw CkptError.from(signal.reason, 'ABORTED')
      if (reason.code === 'ENGINE_UNAUTHORIZED') throw reason
      if (elapsedMs + pause > timeoutMs) {
        const text = `the engine at ${this.http.where} was not ready within ${timeoutMs} ms: ${reason.message}`
        throw new CkptError('ENGINE_UNREACHABLE', text, { cause: reason, fields: { rank, peer: this.http.where } })
      }
      this.#tell({ kind: 'waiting', rank, elapsedMs, reason: reason.message })
      await sleep(pause, undefined, { signal }).catch(() => undefined)
    }
  }

  /** Whether it says that it is healthy. */
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

  /** Calls a method of every worker; their answers. */
  async rpc(method: string, args: readonly unknown[], limits: RequestLimits): Promise<readonly unknown[]> {
    const value = await this.post('/collective_rpc', { method, args }, limits)
    if (value === undefined) return []
    return this.#parse(resultsSchema, '/collective_rpc', value).results
  }

  /** What the workers serve. */
  async state(limits: RequestLimits): Promise<EngineState> {
    const workers = this.#parse(statusSchema, 'ckpt_status', await this.rpc('ckpt_status', [], limits))
    const version = workers[0]!.version
    return {
      version: workers.every((worker) => worker.version === version) ? version : null,
      dirty: workers.some((worker) => worker.dirty),
    }
  }

  /** Stops scheduling requests. False where this version cannot. */
  pause(mode: 'keep' | 'wait' | 'abort', limits: RequestLimits): Promise<boolean> {
    return this.#optional('pause', `/pause?mode=${mode}`, limits)
  }

  async resume(limits: RequestLimits): Promise<void> {
    await this.post('/resume', undefined, limits)
  }

  /** Drops cached prefixes, those of running requests included. @throws CkptError `ENGINE_WORKER_ERROR` when the engine could not. */
  async resetPrefixCache(limits: RequestLimits): Promise<void> {
    const path = '/reset_prefix_cache?reset_running_requests=true'
    await this.#optional('prefix cache reset', path, limits, (value) => {
      const { success } = this.#parse(resetSchema, path, value ?? { success: true }) // older versions say nothing
      if (success) return
      const text = `the engine at ${this.http.where} could not drop its prefix cache: some of its blocks are in use`
      throw new CkptError('ENGINE_WORKER_ERROR', text, { fields: { peer: this.http.where } })
    })
  }

  /** One POST; the answer's JSON. @throws CkptError as `engineError` has it, and what the connection brings. */
  async post(path: string, body: unknown, limits: RequestLimits): Promise<unknown> {
    return accept(`POST ${path}`, this.http.where, await this.http.request('POST', path, body, limits))
  }

  async #optional(
    feature: 'pause' | 'prefix cache reset',
    path: string,
    limits: RequestLimits,
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
    const issue = parsed.error.issues[0]!
    const text = `${what} on ${this.http.where} answered something unexpected: ${issue.path.join('.')}: ${issue.message}`
    throw new CkptError('ENGINE_PROTOCOL', text, { fields: { peer: this.http.where, field: issue.path.join('.') } })
  }
}
