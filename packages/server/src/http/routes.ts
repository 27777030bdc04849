import { CkptError } from '@ckpt/contract'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyBaseLogger, FastifyInstance, RawServerDefault } from 'fastify'
import type { ZodTypeProvider } from 'fastify-type-provider-zod'
import { z } from 'zod'
import { tensorCount, type ParameterServer } from '@ckpt/core'
import { operatorAnswers } from '../metrics/operator-answers.ts'
import { callerGone } from './caller-gone.ts'
import { collectiveCall } from './collective-call.ts'
import { engineTarget } from './engine-targets.ts'
import type { HttpOptions } from './options.ts'
import { checkpointFiles } from './paths.ts'
import {
  checkpointParams,
  failed,
  gathered,
  registerRequest,
  registered,
  unregisterQuery,
  unregistered,
  updateRequest,
  updated,
} from './schemas.ts'

const FAILURES = { '4xx': failed, '5xx': failed }

/** Routes of checkpoint-engine's API, on one rank. Operations that concern all ranks have to be called on every rank. */
export function checkpointRoutes(plain: FastifyInstance, server: ParameterServer, options: HttpOptions): void {
  const app = plain.withTypeProvider<ZodTypeProvider>()
  operatorRoutes(app, server)
  registrationRoutes(app, server, options)
  gatherRoute(app, server)
  updateRoute(app, server, options)
}

type App = FastifyInstance<RawServerDefault, IncomingMessage, ServerResponse, FastifyBaseLogger, ZodTypeProvider>

function operatorRoutes(app: App, server: ParameterServer): void {
  app.route({
    method: 'GET',
    url: '/v1/healthz',
    schema: { summary: 'Check that the process is up; needs no token', response: { 200: z.undefined() } },
    handler: () => Promise.resolve(undefined),
  })

  const answers = operatorAnswers(server)
  const routes = { '/metrics': '/metrics', '/v1/readyz': '/readyz' } as const
  for (const [url, path] of Object.entries(routes)) {
    app.get(url, async (_, reply) => {
      const { status, contentType, body } = await answers(path)
      return reply.status(status).type(contentType).send(body)
    })
  }
}

function registrationRoutes(app: App, server: ParameterServer, options: HttpOptions): void {
  app.route({
    method: 'POST',
    url: '/v1/checkpoints/:name/files',
    schema: {
      summary: 'Register a checkpoint from safetensors files of this rank',
      params: checkpointParams,
      body: registerRequest,
      response: { 200: registered, ...FAILURES },
    },
    async handler({ params, body }) {
      const started = performance.now()
      await server.registerCheckpoint(params.name, checkpointFiles(body.files, options.root))
      return { files: body.files.length, milliseconds: performance.now() - started }
    },
  })

  app.route({
    method: 'DELETE',
    url: '/v1/checkpoints/:name',
    schema: {
      summary: 'Release the memory of a checkpoint; an unregistered one is not an error',
      params: checkpointParams,
      querystring: unregisterQuery,
      response: { 200: unregistered, ...FAILURES },
    },
    async handler({ params, query }) {
      try {
        await server.unregisterCheckpoint(params.name, { force: query.force })
        return { unregistered: true }
      } catch (error) {
        if (CkptError.is(error, 'CHECKPOINT_UNKNOWN')) return { unregistered: false }
        throw error
      }
    },
  })
}

function gatherRoute(app: App, server: ParameterServer): void {
  app.route({
    method: 'POST',
    url: '/v1/checkpoints/:name/gather-metas',
    schema: {
      summary: 'Gather what every rank holds; call it on all ranks',
      params: checkpointParams,
      response: { 200: gathered, ...FAILURES },
    },
    async handler({ params, raw }, reply) {
      // An abandoned call would take part in the next one of the other ranks.
      const manifest = await server.gatherMetas(params.name, { signal: callerGone(raw, reply.raw) })
      const bytes = manifest.ranks.reduce((sum, rank) => sum + rank.tensors.bytes.reduce((a, b) => a + b, 0), 0)
      return { tensors: tensorCount(manifest), bytes, ranks: manifest.ranks.length, digest: manifest.digest }
    },
  })
}

function updateRoute(app: App, server: ParameterServer, options: HttpOptions): void {
  app.route({
    method: 'POST',
    url: '/v1/checkpoints/:name/update',
    schema: {
      summary: 'Move the checkpoint into running engine workers; call it on all ranks',
      params: checkpointParams,
      body: updateRequest,
      response: { 200: updated, ...FAILURES },
    },
    async handler({ params, body }) {
      const { engine = collectiveCall, strategy } = options
      if (body.ranks.length > 0 && strategy === undefined) {
        throw new CkptError('UNSUPPORTED', 'this server can only update all ranks: leave ranks empty', {
          fields: { field: 'ranks' },
        })
      }
      const report = await server.update(params.name, {
        engine: engine(engineTarget(body, options)),
        timeoutMs: body.timeout * 1000,
        ...(body.ranks.length > 0 && { strategy: strategy!(body.ranks) }),
      })
      const { version, tensors, bytes, buckets, how, verified, totalMs, steps } = report
      return { version, tensors, bytes, buckets, how, verified, milliseconds: totalMs, steps: { ...steps } }
    },
  })
}
