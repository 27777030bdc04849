import { CkptError, type ErrorCode } from '@ckpt/contract'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { hasZodFastifySchemaValidationErrors } from 'fastify-type-provider-zod'

const STATUS: Readonly<Partial<Record<ErrorCode, number>>> = {
  INVALID_ARGUMENT: 400,
  CHECKPOINT_UNKNOWN: 404,
  CHECKPOINT_EXISTS: 409,
  CHECKPOINT_IN_USE: 409,
  INVALID_STATE: 409,
  CHECKPOINT_CHANGED: 409,
  METAS_STALE: 409,
  MEMORY_CHANGED: 409,
  CHECKPOINT_MALFORMED: 422,
  CHECKPOINT_UNREADABLE: 422,
  METAS_MALFORMED: 422,
  UNSUPPORTED: 501,
  ENGINE_UNREACHABLE: 502,
  ENGINE_PROTOCOL: 502,
  ENGINE_UNAUTHORIZED: 502,
  ENGINE_WORKER_ERROR: 502,
  ENGINE_WORKER_LOST: 502,
  DIGEST_MISMATCH: 502,
  ABORTED: 503,
  RANK_LOST: 503,
  RANK_MISSING: 503,
  TIMEOUT: 504,
  OUT_OF_MEMORY: 507,
}

/** Answers a failed request: the status from the error's code, the error itself in the body. */
export function answerFailure(thrown: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  if (hasZodFastifySchemaValidationErrors(thrown)) {
    const detail = thrown.validation.map(({ instancePath, message = '' }) => ({
      loc: [thrown.validationContext ?? 'body', ...instancePath.split('/').slice(1)],
      msg: message,
      type: 'value_error',
    }))
    return reply.status(422).send({ detail, error: { ...plain('INVALID_ARGUMENT', thrown.message), retryable: false } })
  }
  const status = (thrown as { statusCode?: unknown }).statusCode
  if (!CkptError.is(thrown) && typeof status === 'number' && status >= 400 && status < 500) {
    const { message } = thrown as Error
    return reply.status(status).send({ detail: message, error: { ...plain('INVALID_ARGUMENT', message), retryable: false } })
  }
  const error = CkptError.from(thrown, 'UPDATE_FAILED')
  if (!CkptError.is(thrown)) request.log.error({ err: thrown }, 'a request failed')
  return reply
    .status(STATUS[error.code] ?? 500)
    .send({ detail: error.message, error: { ...error.toJSON(), retryable: error.retryable } })
}

function plain(code: ErrorCode, message: string): { code: ErrorCode; message: string } {
  return { code, message }
}
