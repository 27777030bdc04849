import { CkptError, ENGINE_HTTP_ERRORS, type ErrorCode } from '@ckpt/contract'
import { HttpClient, poll, type HttpAnswer, type HttpLimits } from '@ckpt/utils'
import { z } from 'zod'
import type { SglangOptions } from './options.ts'

const outcomeSchema = z.object({ success: z.boolean(), message: z.string() })
const modelSchema = z.object({ weight_version: z.string() })
const infoSchema = z.object({ hicache_storage_backend: z.string().nullish() })
const PING_TIMEOUT_MS = 2000
/** Routes by their newest name and by that of older versions. */
const INFO = ['/server_info', '/get_server_info'] as const
const CLEAR_STORAGE = ['/hicache/storage-backend/clear', '/clear_hicache_storage_backend'] as const

/** One SGLang server's control routes (read from SGLang 0.5.23). */
export class SglangServer {
  readonly #http: HttpClient

  constructor(options: SglangOptions, rank: number) {
    const { url, socketPath, apiKey, tls } = options
    const of = (value: string | ((rank: number) => string)) => (typeof value === 'string' ? value : value(rank))
    const target = {
      url: of(url),
      ...(socketPath !== undefined && { socketPath: of(socketPath) }),
      ...(tls && { tls }),
      ...(apiKey !== undefined && { headers: { authorization: `Bearer ${apiKey}` } }),
    }
    this.#http = new HttpClient(target, ENGINE_HTTP_ERRORS)
  }

  /** Name of the server in messages. */
  get where(): string {
    return this.#http.where
  }

  /**
   * Waits until the server listens. `/ping` answers 503 before its warm-up, which may itself wait for the first weights: that counts.
   *
   * @throws CkptError `ENGINE_UNREACHABLE` past the deadline, `ABORTED`.
   */
  async listening(rank: number, limits: HttpLimits & { timeoutMs: number; signal: AbortSignal }): Promise<void> {
    let reason: unknown
    const attempt = async (leftMs: number): Promise<true | undefined> => {
      try {
        const timeoutMs = Math.min(leftMs, PING_TIMEOUT_MS)
        const { status } = await this.#http.request('GET', '/ping', undefined, { timeoutMs, signal: limits.signal })
        if (status < 400 || status === 503) return true
        reason = new Error(`it answers /ping with ${status}`)
      } catch (error) {
        reason = error
      }
      return undefined
    }
    if (await poll(attempt, limits)) return
    throw CkptError.from(reason, 'ENGINE_UNREACHABLE', `no SGLang at ${this.where}`).with({ rank, peer: this.where })
  }

  async pause(mode: 'abort' | 'retract' | 'in_place', limits: HttpLimits): Promise<void> {
    await this.#post('/pause_generation', { mode }, limits)
  }

  async resume(limits: HttpLimits): Promise<void> {
    await this.#post('/continue_generation', {}, limits)
  }

  /** @throws CkptError `ENGINE_WORKER_ERROR` if requests are running or queued: SGLang then keeps its cache. */
  async flushCache(limits: HttpLimits): Promise<void> {
    await this.#post('/flush_cache', undefined, limits)
  }

  /**
   * Drops the entries that HiCache keeps in files or in a store (`--hicache-storage-backend`), which `/flush_cache` does not
   * touch. Does nothing if the server has none. @throws CkptError `ENGINE_WORKER_ERROR` if SGLang keeps them.
   */
  async clearStorage(limits: HttpLimits): Promise<void> {
    const answer = await this.#either('GET', INFO, limits)
    if (answer.status === 404) return
    this.#accept(INFO[0], answer)
    const backend = this.#parse(infoSchema, INFO[0], answer).hicache_storage_backend
    if (backend === null || backend === undefined) return
    const { status, text } = await this.#either('POST', CLEAR_STORAGE, limits)
    if (status < 300) return
    const why = `${status}: ${text.trim().slice(0, 2000)}`
    throw this.#error('ENGINE_WORKER_ERROR', `SGLang keeps the old weights' cache in its storage "${backend}" (${why})`, status)
  }

  /** Returns the answer of the first of two routes, or of the second if the first does not exist. */
  async #either(method: 'GET' | 'POST', [first, second]: readonly [string, string], limits: HttpLimits): Promise<HttpAnswer> {
    const answer = await this.#http.request(method, first, undefined, limits)
    return answer.status === 404 ? this.#http.request(method, second, undefined, limits) : answer
  }

  /**
   * Makes the workers take one update; returns their answers. @throws CkptError `ENGINE_WORKER_ERROR` with SGLang's message.
   */
  async updateWeights(
    body: { zmq_handles: Record<string, string>; flush_cache: boolean; weight_version?: string },
    limits: HttpLimits,
  ): Promise<string> {
    const { text, status } = await this.#http.request('POST', '/update_weights_from_ipc', body, limits)
    const { success, message } = this.#parse(outcomeSchema, '/update_weights_from_ipc', { status, text })
    if (success && status < 400) return message
    throw this.#error('ENGINE_WORKER_ERROR', `SGLang refused the update: ${message}`, status)
  }

  /** Returns the version that it reports. */
  async weightVersion(limits: HttpLimits): Promise<string> {
    const answer = await this.#http.request('GET', '/model_info', undefined, limits)
    this.#accept('/model_info', answer)
    return this.#parse(modelSchema, '/model_info', answer).weight_version
  }

  async #post(path: string, body: unknown, limits: HttpLimits): Promise<void> {
    this.#accept(path, await this.#http.request('POST', path, body, limits))
  }

  #accept(path: string, { status, text }: HttpAnswer): void {
    if (status < 300) return
    const unauthorized = status === 401 || status === 403
    throw this.#error(
      unauthorized ? 'ENGINE_UNAUTHORIZED' : 'ENGINE_WORKER_ERROR',
      `${path} answered ${status}: ${text.trim().slice(0, 2000)}`,
      status,
    )
  }

  #parse<T>(schema: z.ZodType<T>, path: string, answer: HttpAnswer): T {
    let value: unknown
    try {
      value = JSON.parse(answer.text)
    } catch {
      value = undefined
    }
    const parsed = schema.safeParse(value)
    if (parsed.success) return parsed.data
    this.#accept(path, answer)
    throw this.#error(
      'ENGINE_PROTOCOL',
      `${path} answered ${answer.status} with something unknown: ${answer.text.slice(0, 500)}`,
      answer.status,
    )
  }

  #error(code: ErrorCode, message: string, status?: number): CkptError {
    return new CkptError(code, message, { fields: { peer: this.where, ...(status !== undefined && { status }) } })
  }
}
