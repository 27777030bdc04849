import { CkptError, type ErrorCode } from '@ckpt/contract'
import { Agent, request } from 'undici'
import { z } from 'zod'
import type { SglangOptions } from './options.ts'

const MAX_ANSWER = 16 * 2 ** 20
const outcomeSchema = z.object({ success: z.boolean(), message: z.string() })
const modelSchema = z.object({ weight_version: z.string() })
const infoSchema = z.object({ hicache_storage_backend: z.string().nullish() })
/** Routes by their newest name and the one that older versions have. */
const INFO = ['/server_info', '/get_server_info'] as const
const CLEAR_STORAGE = ['/hicache/storage-backend/clear', '/clear_hicache_storage_backend'] as const

export interface Limits {
  readonly timeoutMs: number
  readonly signal?: AbortSignal
}

interface Answer {
  readonly status: number
  readonly text: string
}

/** One SGLang server's control routes (read from SGLang 0.5.23). */
export class SglangServer {
  /** Where it is, for messages. */
  readonly where: string
  readonly #base: URL
  readonly #apiKey: string | undefined
  readonly #agent: Agent

  constructor(options: SglangOptions, rank: number) {
    const { url, socketPath, apiKey, tls } = options
    const of = (value: string | ((rank: number) => string)) => (typeof value === 'string' ? value : value(rank))
    const socket = socketPath === undefined ? undefined : of(socketPath)
    this.#base = new URL(of(url))
    this.#apiKey = apiKey
    this.where = socket === undefined ? this.#base.origin : `${this.#base.pathname} on ${socket}`
    // An update may take longer than the client's own limits: each request brings its deadline.
    this.#agent = new Agent({
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: { ...tls, ...(socket !== undefined && { socketPath: socket }) },
    })
  }

  async close(): Promise<void> {
    await this.#agent.destroy()
  }

  /**
   * Waits until the server listens. `/ping` answers 503 before its warm-up, which may itself wait for the first weights: that counts.
   *
   * @throws CkptError `ENGINE_UNREACHABLE` past the deadline.
   */
  async listening(rank: number, { timeoutMs, signal }: Limits & { signal: AbortSignal }): Promise<void> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      let reason: unknown
      try {
        const { status } = await this.#exchange('GET', '/ping', undefined, { timeoutMs: 2000, signal })
        if (status < 400 || status === 503) return
        reason = new Error(`it answers /ping with ${status}`)
      } catch (error) {
        if (signal.aborted) throw error
        reason = error
      }
      if (performance.now() > deadline) {
        throw CkptError.from(reason, 'ENGINE_UNREACHABLE', `no SGLang at ${this.where}`).with({ rank, peer: this.where })
      }
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }

  async pause(mode: 'abort' | 'retract' | 'in_place', limits: Limits): Promise<void> {
    await this.#post('/pause_generation', { mode }, limits)
  }

  async resume(limits: Limits): Promise<void> {
    await this.#post('/continue_generation', {}, limits)
  }

  /** @throws CkptError `ENGINE_WORKER_ERROR` where requests are running or queued: SGLang then keeps its cache. */
  async flushCache(limits: Limits): Promise<void> {
    await this.#post('/flush_cache', undefined, limits)
  }

  /**
   * Drops what HiCache keeps in files or in a store (`--hicache-storage-backend`), which `/flush_cache` does not touch. Does nothing where the server has
   * none. @throws CkptError `ENGINE_WORKER_ERROR` where SGLang keeps it.
   */
  async clearStorage(limits: Limits): Promise<void> {
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

  /** The answer to the first of two routes, or to the second where there is no first. */
  async #either(method: 'GET' | 'POST', [first, second]: readonly [string, string], limits: Limits): Promise<Answer> {
    const answer = await this.#exchange(method, first, undefined, limits)
    return answer.status === 404 ? this.#exchange(method, second, undefined, limits) : answer
  }

  /** Has the workers take one update; returns what they said. @throws CkptError `ENGINE_WORKER_ERROR` with SGLang's message. */
  async updateWeights(
    body: { zmq_handles: Record<string, string>; flush_cache: boolean; weight_version?: string },
    limits: Limits,
  ): Promise<string> {
    const { text, status } = await this.#exchange('POST', '/update_weights_from_ipc', body, limits)
    const { success, message } = this.#parse(outcomeSchema, '/update_weights_from_ipc', { status, text })
    if (success && status < 400) return message
    throw this.#error('ENGINE_WORKER_ERROR', `SGLang refused the update: ${message}`, status)
  }

  /** What it says it serves. */
  async weightVersion(limits: Limits): Promise<string> {
    const answer = await this.#exchange('GET', '/model_info', undefined, limits)
    this.#accept('/model_info', answer)
    return this.#parse(modelSchema, '/model_info', answer).weight_version
  }

  async #post(path: string, body: unknown, limits: Limits): Promise<void> {
    this.#accept(path, await this.#exchange('POST', path, body, limits))
  }

  async #exchange(method: 'GET' | 'POST', path: string, body: unknown, { timeoutMs, signal }: Limits): Promise<Answer> {
    const deadline = AbortSignal.timeout(timeoutMs)
    try {
      const { statusCode, body: answer } = await request(new URL(this.#base.pathname.replace(/\/$/, '') + path, this.#base), {
        method,
        headers: {
          ...(body !== undefined && { 'content-type': 'application/json' }),
          ...(this.#apiKey !== undefined && { authorization: `Bearer ${this.#apiKey}` }),
        },
        body: body === undefined ? null : JSON.stringify(body),
        dispatcher: this.#agent,
        signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
      })
      let text = ''
      for await (const part of answer.setEncoding('utf8')) {
        text += String(part)
        if (text.length > MAX_ANSWER) throw this.#error('ENGINE_PROTOCOL', `${path} answered more than ${MAX_ANSWER} bytes`)
      }
      return { status: statusCode, text }
    } catch (error) {
      if (signal?.aborted) throw CkptError.from(signal.reason, 'ABORTED')
      if (deadline.aborted) throw this.#error('TIMEOUT', `${method} ${path} on ${this.where}: no answer within ${timeoutMs} ms`)
      const { code } = error as { code?: string }
      const lost = code === 'UND_ERR_SOCKET' || code === 'ECONNRESET'
      throw CkptError.from(error, lost ? 'ENGINE_WORKER_LOST' : 'ENGINE_UNREACHABLE', `${method} ${path} on ${this.where}`, {
        peer: this.where,
      })
    }
  }

  #accept(path: string, { status, text }: Answer): void {
    if (status < 300) return
    const unauthorized = status === 401 || status === 403
    throw this.#error(
      unauthorized ? 'ENGINE_UNAUTHORIZED' : 'ENGINE_WORKER_ERROR',
      `${path} answered ${status}: ${text.trim().slice(0, 2000)}`,
      status,
    )
  }

  #parse<T>(schema: z.ZodType<T>, path: string, answer: Answer): T {
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
