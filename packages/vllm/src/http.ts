import { request as httpRequest, type RequestOptions } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { CkptError } from '@ckpt/contract'
import { parseUrl, type VllmTls } from './options.ts'

/** Longest answer that is read, in bytes. */
const MAX_ANSWER = 16 * 2 ** 20

export interface Target {
  readonly url?: string
  readonly socketPath?: string
  readonly apiKey?: string
  readonly tls?: VllmTls
  readonly headers?: Readonly<Record<string, string>>
}

export interface Answer {
  readonly status: number
  readonly text: string
}

export interface RequestLimits {
  /** Time for the whole exchange, in milliseconds; absent: as long as the connection lives. */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
}

/** Requests to one engine. Each has a connection of its own: what ends it is then the end of this request. */
export class EngineHttp {
  /** Where the engine is, for messages. */
  readonly where: string
  readonly #base: URL
  readonly #target: Target

  constructor(target: Target) {
    this.#target = target
    this.#base = parseUrl(target.url ?? 'http://localhost')
    this.where = target.socketPath === undefined ? this.#base.origin : `unix:${target.socketPath}`
  }

  /**
   * One exchange, whatever its status.
   *
   * @throws CkptError `ENGINE_UNREACHABLE` where no connection comes about, `ENGINE_WORKER_LOST` where it breaks, `TIMEOUT`, `ABORTED`.
   */
  async request(method: 'GET' | 'POST', path: string, body?: unknown, limits: RequestLimits = {}): Promise<Answer> {
    const what = `${method} ${path} on ${this.where}`
    const fields = { peer: this.where }
    const payload = body === undefined ? undefined : JSON.stringify(body)
    return new Promise((resolve, reject) => {
      const outgoing = this.#open(method, path, payload)
      let connected = false
      const timer =
        limits.timeoutMs === undefined
          ? undefined
          : setTimeout(
              () => end(new CkptError('TIMEOUT', `${what}: no answer within ${limits.timeoutMs} ms`, { fields })),
              limits.timeoutMs,
            )
      const onAbort = () => end(CkptError.from(limits.signal!.reason, 'ABORTED', what, fields))
      const settle = () => {
        clearTimeout(timer)
        limits.signal?.removeEventListener('abort', onAbort)
      }
      const end = (error: CkptError) => {
        settle()
        reject(error)
        outgoing.destroy()
      }
      const broken = (error: Error) =>
        end(CkptError.from(error, connected ? 'ENGINE_WORKER_LOST' : 'ENGINE_UNREACHABLE', what, fields))
      outgoing.on('socket', (socket) => {
        socket.setKeepAlive(true, 10_000)
        socket.once(this.#base.protocol === 'https:' ? 'secureConnect' : 'connect', () => (connected = true))
      })
      outgoing.on('error', broken)
      outgoing.on('response', (response) => {
        const parts: Buffer[] = []
        let bytes = 0
        response.on('data', (part: Buffer) => {
          bytes += part.byteLength
          if (bytes > MAX_ANSWER)
            end(new CkptError('ENGINE_PROTOCOL', `${what}: the answer is over ${MAX_ANSWER} bytes`, { fields }))
          else parts.push(part)
        })
        response.on('error', broken)
        response.on('end', () => {
          settle()
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(parts).toString() })
        })
      })
      limits.signal?.addEventListener('abort', onAbort, { once: true })
      if (limits.signal?.aborted) onAbort()
      else outgoing.end(payload)
    })
  }

  #open(method: string, path: string, payload: string | undefined) {
    const { socketPath, apiKey, tls, headers } = this.#target
    const common: RequestOptions = {
      method,
      agent: false,
      headers: {
        ...(payload !== undefined && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }),
        ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }),
        ...headers,
      },
    }
    if (socketPath !== undefined) return httpRequest({ ...common, socketPath, path })
    const url = new URL(this.#base)
    const [pathname, query] = path.split('?')
    url.pathname = url.pathname.replace(/\/$/, '') + pathname!
    url.search = query ?? ''
    if (url.protocol === 'http:') return httpRequest(url, common)
    const { ca, cert, key, servername } = tls ?? {}
    return httpsRequest(url, {
      ...common,
      ...(ca !== undefined && { ca: typeof ca === 'string' ? ca : [...ca] }),
      ...(cert !== undefined && { cert }),
      ...(key !== undefined && { key }),
      ...(servername !== undefined && { servername }),
    })
  }
}
