import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { CkptError } from '@ckpt/contract'
import { Connections } from '../http/connections.ts'
import { isLoopback, namesLoopback } from '../http/loopback.ts'

/** Connections that are held at the same time: a scraper among them is answered before so many others can push it out. */
const MOST_CONNECTIONS = 256
const DEADLINE_MS = 5000
/** As at the API: as many as the system grants. */
const BACKLOG = 4096

/** What is served: a parameter server, or anything that can answer for one. */
export interface Observable {
  readonly metricsContentType: string
  metrics(): Promise<string>
  health(): Health
}

/** A rank's health; `GET /healthz` and `GET /readyz` answer with it. */
export interface Health {
  readonly rank: number
  readonly worldSize: number
  readonly state: 'ready' | 'updating' | 'not ready' | 'draining' | 'closed'
  /** Why it cannot take an update; empty when it can. */
  readonly hindrances: readonly string[]
  /** Ranks whose engine workers may hold parts of an update. */
  readonly dirty: readonly number[]
}

export interface MetricsServerOptions {
  /** Port to listen on; 0 takes a free one. */
  readonly port: number
  /** Address to listen on (default 127.0.0.1). What is served is no secret, but tells names of checkpoints and versions. */
  readonly host?: string
}

/**
 * Serves a rank's numbers: `GET /metrics` for Prometheus, `GET /healthz` (200 while the process is up), `GET /readyz` (200 while it can take an
 * update, else 503). Reading changes nothing, so that it needs no token. On the loopback interface requests must name it as their `Host`, so that
 * no web page reads it by a name of its own that leads there. Each connection has one answer and lasts five seconds at most.
 *
 * @throws CkptError `INVALID_ARGUMENT` when the address cannot be listened on.
 */
export async function serveMetrics(
  source: Observable,
  { port, host = '127.0.0.1' }: MetricsServerOptions,
): Promise<{ readonly port: number; close(): Promise<void> }> {
  const connections = new Connections({ most: MOST_CONNECTIONS, strangerMs: DEADLINE_MS })
  const local = isLoopback(host)
  const server = createServer(
    { headersTimeout: DEADLINE_MS, requestTimeout: DEADLINE_MS, connectionsCheckingInterval: 1000 },
    (request, response) => {
      connections.begin(request, response, () => {
        if (!local || namesLoopback(request.headers.host)) void answer(source, request, response)
        else response.writeHead(403, { 'content-type': 'text/plain' }).end('Host is not this machine\n')
      })
    },
  )
  connections.watch(server)
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(
        CkptError.from(error, 'INVALID_ARGUMENT', `cannot serve metrics on ${host}:${port}`, {
          field: 'metricsPort',
          peer: host,
        }),
      ),
    )
    server.listen({ port, host, backlog: BACKLOG }, resolve)
  })
  const address = server.address()
  return {
    port: typeof address === 'object' && address ? address.port : port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
        connections.endWaiting()
      }),
  }
}

async function answer(source: Observable, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const send = (status: number, type: string, body: string) =>
    response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' }).end(request.method === 'HEAD' ? '' : body)
  try {
    const [path] = (request.url ?? '').split('?')
    if (request.method !== 'GET' && request.method !== 'HEAD') return void send(405, 'text/plain', 'only GET\n')
    if (path === '/metrics') return void send(200, source.metricsContentType, await source.metrics())
    if (path !== '/healthz' && path !== '/readyz') return void send(404, 'text/plain', 'GET /metrics, /healthz or /readyz\n')
    const health = source.health()
    const status = path === '/healthz' || health.hindrances.length === 0 ? 200 : 503
    send(status, 'application/json', `${JSON.stringify(health)}\n`)
  } catch (error) {
    send(500, 'text/plain', `${error instanceof Error ? error.message : String(error)}\n`)
  }
}
