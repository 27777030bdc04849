import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'

/** One received request. */
export interface Seen {
  readonly method: string
  readonly path: string
  readonly headers: IncomingMessage['headers']
  readonly body: unknown
}

export type Reply = { readonly status?: number; readonly body?: unknown } | 'hang up' | 'silence'

/** An HTTP server that gives configured answers and keeps the requests. */
export class HttpEngine implements AsyncDisposable {
  readonly seen: Seen[] = []
  readonly #server: Server
  #url = ''

  private constructor(reply: (seen: Seen) => Reply | Promise<Reply>, tls?: { key: string; cert: string }) {
    const handle = (request: IncomingMessage, response: ServerResponse) => {
      const parts: Buffer[] = []
      request.on('data', (part: Buffer) => parts.push(part))
      request.on('end', () => {
        const text = Buffer.concat(parts).toString()
        const body: unknown = text === '' ? undefined : JSON.parse(text)
        const seen = { method: request.method!, path: request.url!, headers: request.headers, body }
        this.seen.push(seen)
        void Promise.resolve(reply(seen)).then((answer) => {
          if (answer === 'hang up') request.socket.destroy()
          if (typeof answer === 'string') return
          response.writeHead(answer.status ?? 200, { 'content-type': 'application/json' })
          response.end(answer.body === undefined ? '' : JSON.stringify(answer.body))
        })
      })
    }
    this.#server = tls ? createTlsServer(tls, handle) : createServer(handle)
  }

  /** Listens on a port of the loopback interface, or on a unix socket. */
  static async start(
    reply: (seen: Seen) => Reply | Promise<Reply>,
    options: { socketPath?: string; tls?: { key: string; cert: string } } = {},
  ): Promise<HttpEngine> {
    const engine = new HttpEngine(reply, options.tls)
    await new Promise<void>((resolve) => {
      if (options.socketPath === undefined) engine.#server.listen(0, '127.0.0.1', resolve)
      else engine.#server.listen(options.socketPath, resolve)
    })
    const port = options.socketPath === undefined ? (engine.#server.address() as AddressInfo).port : 0
    engine.#url = `${options.tls ? 'https' : 'http'}://127.0.0.1:${port}`
    return engine
  }

  get url(): string {
    return this.#url
  }

  /** Requests received, as `POST /path`. */
  asked(): string[] {
    return this.seen.map(({ method, path }) => `${method} ${path}`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

const OK = { body: undefined } as const

/** Answers like a vLLM server whose workers take every update; `rpc` overrides what `/collective_rpc` does by method. */
export function healthy(
  rpc: Record<string, (seen: Seen) => Reply | Promise<Reply>> = {},
): (seen: Seen) => Reply | Promise<Reply> {
  return (seen) => {
    const path = seen.path.split('?')[0]!
    if (path === '/collective_rpc') {
      const { method, args } = seen.body as { method: string; args: unknown[] }
      const own = rpc[method]
      if (own) return own(seen)
      if (method === 'ckpt_status') return { body: { results: [{ version: 'a', dirty: false }] } }
      const { endpoints } = args[0] as { endpoints: unknown[] }
      return { body: { results: endpoints.map(() => ({ version: 'a' })) } }
    }
    if (path === '/is_paused') return { body: { is_paused: true } }
    if (path === '/reset_prefix_cache') return { body: { success: true } }
    if (['/health', '/pause', '/resume'].includes(path)) return OK
    return { status: 404, body: { detail: 'Not Found' } }
  }
}
