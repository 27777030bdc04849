import swagger from '@fastify/swagger'
import { CkptError } from '@ckpt/contract'
import { fastify, type FastifyInstance } from 'fastify'
import { jsonSchemaTransform, serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod'
import type { ParameterServer } from '../parameter-server.ts'
import { answerFailure } from './failures.ts'
import { DEFAULT_HOST, checkExposure, refusal } from './guard.ts'
import type { HttpOptions } from './options.ts'
import { listenPrivately } from './private-socket.ts'
import { checkpointRoutes } from './routes.ts'

/** Of the routes, not of this package. */
const API_VERSION = '1.0.0'
const DEFAULT_BODY_LIMIT = 16 * 2 ** 20

/** The HTTP API of one rank, listening. */
export interface HttpServer extends AsyncDisposable {
  /** `http://host:port`, or the path of the unix socket. */
  readonly address: string
  /** Takes no further requests, waits for those that run, and removes the socket. */
  close(): Promise<void>
}

/**
 * Serves the HTTP API (docs/http-api.md) of this rank. The parameter server stays the caller's: close it first, so that a running
 * update ends and is answered.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the option where others than this machine's users could reach the API unasked, or the
 * address where it cannot listen.
 */
export async function serveHttp(server: ParameterServer, options: HttpOptions = {}): Promise<HttpServer> {
  checkExposure(options)
  const app = await api(server, options)
  try {
    const { address, remove } = await listen(app, options)
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

async function api(server: ParameterServer, options: HttpOptions): Promise<FastifyInstance> {
  const app = fastify({
    bodyLimit: options.bodyLimit ?? DEFAULT_BODY_LIMIT,
    // An update may take longer than Node's default of five minutes; its own deadline ends it.
    requestTimeout: 0,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 512 },
    return503OnClosing: true,
  })
  app.setValidatorCompiler(validatorCompiler)
  app.setSerializerCompiler(serializerCompiler)
  app.setErrorHandler(answerFailure)
  app.setNotFoundHandler((request, reply) =>
    answerFailure(Object.assign(new Error(`no ${request.method} ${request.url}`), { statusCode: 404 }), request, reply),
  )
  app.addHook('onRequest', async (request, reply) => {
    const refused = await refusal(request, options)
    if (refused === undefined) return
    if (refused.status === 401) void reply.header('www-authenticate', 'Bearer')
    const error = new CkptError('INVALID_ARGUMENT', refused.reason)
    return reply.status(refused.status).send({ detail: refused.reason, error: { ...error.toJSON(), retryable: false } })
  })
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

/** Where it listens, and what removes the socket. */
async function listen(app: FastifyInstance, options: HttpOptions): Promise<{ address: string; remove: () => void }> {
  const { socketPath, host = DEFAULT_HOST, port = 0 } = options
  if (socketPath === undefined) return { address: await app.listen({ host, port }), remove: () => undefined }
  const remove = await listenPrivately(socketPath, (path) => app.listen({ path }))
  return { address: socketPath, remove }
}
