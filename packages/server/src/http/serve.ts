import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import swagger from '@fastify/swagger'
import { CkptError } from '@ckpt/contract'
import { fastify, type FastifyInstance } from 'fastify'
import { jsonSchemaTransform, serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod'
import type { ParameterServer } from '@ckpt/core'
import { Connections } from './connections.ts'
import { answerFailure } from './failures.ts'
import { DEFAULT_HOST, checkExposure, isOpen, refusal, showsRight } from './guard.ts'
import type { HttpOptions } from './options.ts'
import { listenPrivately } from './private-socket.ts'
import { checkpointRoutes } from './routes.ts'
import { readTls, watchTls, type TlsFiles } from './tls-files.ts'

/** Version of the routes, not of this package. */
const API_VERSION = '1.0.0'
const DEFAULT_BODY_LIMIT = 16 * 2 ** 20
/** Maximum time in milliseconds from a request's first byte to the end of its headers. */
const HEADERS_TIMEOUT_MS = 10_000
/**
 * Maximum time from a request's first byte to the end of its body. The duration of the answer is limited by the update's own
 * deadline.
 */
const REQUEST_TIMEOUT_MS = 60_000
/** Longer than balancers keep idle connections (60 s is common), so that they never send a request into a closing one. */
const KEEP_ALIVE_MS = 75_000
/** Connections that the system keeps ready, limited by its own maximum: beyond that it accepts nobody for a second or more. */
const BACKLOG = 4096

/** The listening HTTP API of one rank. */
export interface HttpServer extends AsyncDisposable {
  /**
   * `http://address:port` (`https:` with TLS), where 0.0.0.0 and [::] are all addresses of this machine, or the path of the unix
   * socket.
   */
  readonly address: string
  /** Accepts no further requests, waits for running ones, and removes the socket. */
  close(): Promise<void>
}

/**
 * Serves the HTTP API (docs/http-api.md) of this rank. The caller owns the parameter server: close it first, so that a running
 * update ends and is answered.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the option if others than this machine's users could reach the API without
 * restriction, or the address if it cannot listen.
 */
export async function serveHttp(server: ParameterServer, options: HttpOptions = {}): Promise<HttpServer> {
  checkExposure(options)
  const connections = new Connections({
    ...(options.maxConnections !== undefined && { most: options.maxConnections }),
    mayCall: (head, socket) => showsRight(head, socket, options),
  })
  const app = await api(server, options, connections)
  try {
    const { address, remove } = await listen(app, options, BACKLOG)
    const close = () => app.close().finally(remove)
    return { address, close, [Symbol.asyncDispose]: close }
  } catch (error) {
    await app.close()
    if (CkptError.is(error)) throw error
    throw CkptError.from(error, 'INVALID_ARGUMENT', 'the API cannot listen', {
      field: options.socketPath ? 'socketPath' : 'host',
    })
  }
}

async function api(server: ParameterServer, options: HttpOptions, connections: Connections): Promise<FastifyInstance> {
  const app = fastify({
    bodyLimit: options.bodyLimit ?? DEFAULT_BODY_LIMIT,
    serverFactory: (handler) => listener(handler, connections, options.tls),
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 512 },
    return503OnClosing: true,
  })
  // A client, or a balancer in front of it, may close its own half after its request: it still gets its answer.
  Object.assign(app.server, { httpAllowHalfOpen: true })
  app.setValidatorCompiler(validatorCompiler)
  app.setSerializerCompiler(serializerCompiler)
  app.setErrorHandler(answerFailure)
  app.setNotFoundHandler((request, reply) =>
    answerFailure(Object.assign(new Error(`no ${request.method} ${request.url}`), { statusCode: 404 }), request, reply),
  )
  guardRequests(app, options, connections)
  await app.register(swagger, {
    openapi: {
      info: { title: 'ckpt', version: API_VERSION, description: 'One rank of a parameter server.' },
      ...(options.token !== undefined && {
        components: { securitySchemes: { bearer: { type: 'http', scheme: 'bearer' } } },
        security: [{ bearer: [] }],
      }),
    },
    transform: jsonSchemaTransform,
  })
  checkpointRoutes(app, server, options)
  for (const plugin of options.plugins ?? []) await plugin(app, server)
  app.get('/openapi.json', { schema: { hide: true } }, () => app.swagger())
  await app.ready()
  return app
}

function listener(handler: RequestListener, connections: Connections, tls: TlsFiles | undefined): Server {
  const timeouts = {
    headersTimeout: HEADERS_TIMEOUT_MS,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    connectionsCheckingInterval: 1000,
  }
  const begin: RequestListener = (request, response) => connections.begin(request, response, () => handler(request, response))
  if (tls === undefined) {
    const http = createServer(timeouts, begin)
    connections.watch(http)
    return http
  }
  // A handshake is part of the request's head.
  const https = createTlsServer(
    { ...timeouts, ...readTls(tls), handshakeTimeout: HEADERS_TIMEOUT_MS, minVersion: 'TLSv1.2' },
    begin,
  )
  connections.watch(https, 'secureConnection')
  https.on(
    'close',
    watchTls(tls, (context) => https.setSecureContext(context)),
  )
  return https
}

/** Answers only permitted callers, and keeps only their connections. */
function guardRequests(app: FastifyInstance, options: HttpOptions, connections: Connections): void {
  app.addHook('onRequest', async (request, reply) => {
    const refused = await refusal(request, options)
    if (refused === undefined) {
      if (!isOpen(request)) connections.admit(request.raw, reply.raw)
      return
    }
    connections.refuse(reply.raw)
    if (refused.status === 401) void reply.header('www-authenticate', 'Bearer')
    const error = new CkptError('INVALID_ARGUMENT', refused.reason)
    return reply.status(refused.status).send({ detail: refused.reason, error: { ...error.toJSON(), retryable: false } })
  })
  app.addHook('preClose', () => {
    connections.endWaiting()
    return Promise.resolve()
  })
  app.addHook('onSend', async (request, reply) => {
    // A client that has its answer would be waited for to send the rest of the body, and one that asks for too much need not
    // keep a connection.
    if ((!request.raw.complete && hasBody(request.raw)) || reply.statusCode === 429) connections.refuse(reply.raw)
    return Promise.resolve()
  })
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}

/** Address on which a server listens: 0.0.0.0 and :: are all of this machine. */
function shownAddress(server: Server): string {
  const { address, port } = server.address() as AddressInfo
  return `${address.includes(':') ? `[${address}]` : address}:${port}`
}

/** Returns the listening address, and a function that removes the socket. */
async function listen(
  app: FastifyInstance,
  options: HttpOptions,
  backlog: number,
): Promise<{ address: string; remove: () => void }> {
  const { socketPath, host = DEFAULT_HOST, port = 0, tls } = options
  if (socketPath === undefined) {
    await app.listen({ host, port, backlog })
    return { address: `http${tls ? 's' : ''}://${shownAddress(app.server)}`, remove: () => undefined }
  }
  const remove = await listenPrivately(socketPath, (path) => app.listen({ path, backlog }))
  return { address: socketPath, remove }
}
