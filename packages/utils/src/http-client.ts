import { CkptError, type ErrorCode } from '@ckpt/contract'
import { Client } from 'undici'

/** Maximum length of an answer, in bytes. */
const MAX_ANSWER_BYTES = 16 * 2 ** 20
/** Silence on a connection before the system asks the peer whether it is there, in milliseconds. */
const KEEP_ALIVE_MS = 10_000

/** Where a server is. */
export interface HttpTarget {
  /** Base URL, whose path comes before each request's. With `socketPath` only this path counts (default: none). */
  readonly url?: string
  /** Unix socket that the server listens on. */
  readonly socketPath?: string
  /** For `https:` URLs: PEM texts, and the name that the certificate must bear (default: the URL's host). */
  readonly tls?: {
    readonly ca?: string | readonly string[]
    readonly cert?: string
    readonly key?: string
    readonly servername?: string
  }
  /** Headers of every request. */
  readonly headers?: Readonly<Record<string, string>>
}

export interface HttpAnswer {
  readonly status: number
  readonly text: string
}

export interface HttpLimits {
  /** Time for the whole exchange, in milliseconds; absent: as long as the connection lives. */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
}

/** Codes of errors by what went wrong. */
export interface HttpErrorCodes {
  /** No connection. */
  readonly unreachable: ErrorCode
  /** The connection broke before the answer was complete. */
  readonly lost: ErrorCode
  /** The answer is longer than 16 MiB. */
  readonly malformed: ErrorCode
}

/** Requests with small JSON bodies and answers to one server. Each has its own connection, which ends with it. */
export class HttpClient {
  /** Name of the server in messages. */
  readonly where: string
  readonly #origin: string
  readonly #path: string
  readonly #target: HttpTarget
  readonly #codes: HttpErrorCodes

  constructor(target: HttpTarget, codes: HttpErrorCodes) {
    const url = new URL(target.url ?? 'http://localhost')
    this.#origin = url.origin
    this.#path = url.pathname.replace(/\/$/, '')
    this.where = target.socketPath === undefined ? this.#origin : `unix:${target.socketPath}${this.#path}`
    this.#target = target
    this.#codes = codes
  }

  /**
   * One exchange, whatever the status of its answer.
   *
   * @param path with its query
   * @throws CkptError of {@link HttpErrorCodes}, `TIMEOUT`, `ABORTED` (the signal's reason); all have the field `peer`.
   */
  async request(
    method: 'GET' | 'POST',
    path: string,
    body?: unknown,
    { timeoutMs, signal }: HttpLimits = {},
  ): Promise<HttpAnswer> {
    const what = `${method} ${path} on ${this.where}`
    const fields = { peer: this.where }
    const { client, isConnected } = this.#connect()
    const deadline = timeoutMs === undefined ? undefined : AbortSignal.timeout(Math.ceil(timeoutMs))
    const signals = [signal, deadline].filter((one) => one !== undefined)
    try {
      const answer = await client.request({
        method,
        path: this.#path + path,
        headers: { ...(body !== undefined && { 'content-type': 'application/json' }), ...this.#target.headers },
        body: body === undefined ? null : JSON.stringify(body),
        signal: signals.length === 0 ? null : AbortSignal.any(signals),
      })
      const parts: Buffer[] = []
      let bytes = 0
      for await (const part of answer.body as AsyncIterable<Buffer>) {
        bytes += part.byteLength
        if (bytes > MAX_ANSWER_BYTES) {
          const text = `${what}: the answer is longer than ${MAX_ANSWER_BYTES} bytes`
          throw new CkptError(this.#codes.malformed, text, { fields })
        }
        parts.push(part)
      }
      return { status: answer.statusCode, text: Buffer.concat(parts).toString() }
    } catch (error) {
      if (CkptError.is(error)) throw error
      if (signal?.aborted === true) throw CkptError.from(signal.reason, 'ABORTED', what, fields)
      if (deadline?.aborted === true) throw new CkptError('TIMEOUT', `${what}: no answer within ${timeoutMs} ms`, { fields })
      throw CkptError.from(error, isConnected() ? this.#codes.lost : this.#codes.unreachable, what, fields)
    } finally {
      await client.destroy()
    }
  }

  #connect(): { client: Client; isConnected: () => boolean } {
    const { socketPath, tls } = this.#target
    const { ca, ...identity } = tls ?? {}
    const client = new Client(this.#origin, {
      // Each request brings its own deadline.
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: {
        ...identity,
        ...(ca !== undefined && { ca: typeof ca === 'string' ? ca : [...ca] }),
        ...(socketPath !== undefined && { socketPath }),
        timeout: 0,
        keepAliveInitialDelay: KEEP_ALIVE_MS,
      },
    })
    let connected = false
    client.once('connect', () => (connected = true))
    return { client, isConnected: () => connected }
  }
}
