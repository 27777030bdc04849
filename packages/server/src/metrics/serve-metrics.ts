import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { CkptError } from '@ckpt/contract'
import type { ParameterServer } from '@ckpt/core'
import { Connections } from '../http/connections.ts'
import { isLoopback, namesLoopback } from '../http/loopback.ts'
import { OPERATOR_PATHS, operatorAnswers } from './operator-answers.ts'

/** Maximum number of connections: a scraper is answered before this many others can displace it. */
const MOST_CONNECTIONS = 256
const DEADLINE_MS = 5000
/** As for the API: limited by the system's maximum. */
const BACKLOG = 4096

export interface MetricsServerOptions {
  /** Port to listen on; 0 selects a free one. */
  readonly port: number
  /** Address to listen on (default 127.0.0.1). The metrics are not secret, but reveal names of checkpoints and versions. */
  readonly host?: string
}

/**
 * Serves a rank's metrics: `GET /metrics` for Prometheus, `GET /healthz` (200 while the process is up), `GET /readyz` (200
 * while it can take an update, else 503). Reading changes nothing, so it needs no token. On the loopback interface requests
 * must name it as their `Host`, so that no web page can read it through its own name that resolves there. Each connection gets
 * one answer and lasts five seconds at most.
 *
 * @throws CkptError `INVALID_ARGUMENT` if the address cannot be listened on.
 */
export async function serveMetrics(
  server: ParameterServer,
  { port, host = '127.0.0.1' }: MetricsServerOptions,
): Promise<{ readonly port: number; close(): Promise<void> }> {
  const answers = operatorAnswers(server)
  const connections = new Connections({ most: MOST_CONNECTIONS, strangerMs: DEADLINE_MS })
  const local = isLoopback(host)
  const http = createServer(
    { headersTimeout: DEADLINE_MS, requestTimeout: DEADLINE_MS, connectionsCheckingInterval: 1000 },
    (request, response) => {
      connections.begin(request, response, () => {
        if (!local || namesLoopback(request.headers.host)) void answer(answers, request, response)
        else response.writeHead(403, { 'content-type': 'text/plain' }).end('Host is not this machine\n')
      })
    },
  )
  connections.watch(http)
  await new Promise<void>((resolve, reject) => {
    http.once('error', (error) =>
      reject(
        CkptError.from(error, 'INVALID_ARGUMENT', `cannot serve metrics on ${host}:${port}`, {
          field: 'metricsPort',
          peer: host,
        }),
      ),
    )
    http.listen({ port, host, backlog: BACKLOG }, resolve)
  })
  const address = http.address()
  return {
    port: typeof address === 'object' && address ? address.port : port,
    close: () =>
      new Promise((resolve) => {
        http.close(() => resolve())
        http.closeAllConnections()
        connections.endWaiting()
      }),
  }
}

async function answer(
  answers: ReturnType<typeof operatorAnswers>,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const send = (status: number, type: string, body: string) =>
    response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' }).end(request.method === 'HEAD' ? '' : body)
  try {
    if (request.method !== 'GET' && request.method !== 'HEAD') return void send(405, 'text/plain', 'only GET\n')
    const [path] = (request.url ?? '').split('?')
    const known = OPERATOR_PATHS.find((one) => one === path)
    if (known === undefined) return void send(404, 'text/plain', 'GET /metrics, /healthz or /readyz\n')
    const { status, contentType, body } = await answers(known)
    send(status, contentType, body)
  } catch (error) {
    send(500, 'text/plain', `${error instanceof Error ? error.message : String(error)}\n`)
  }
}
