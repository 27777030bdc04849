/**
 * Part that has to be rebuilt after an error, smallest first: only the operation, an engine worker, a rank (one
 * parameter-server process), or the registered checkpoint.
 */
export type ErrorScope = 'operation' | 'engine' | 'rank' | 'checkpoint'

interface CodeInfo {
  readonly scope: ErrorScope
  /** True if the same call with the same arguments may succeed when repeated. */
  readonly retryable: boolean
}

/** Every error code with its scope and `retryable`. Codes are stable: new ones are added, none is renamed. */
export const ERROR_CODES = {
  // operation
  INVALID_ARGUMENT: { scope: 'operation', retryable: false },
  INVALID_STATE: { scope: 'operation', retryable: false },
  ABORTED: { scope: 'operation', retryable: true },
  TIMEOUT: { scope: 'operation', retryable: true },
  UPDATE_FAILED: { scope: 'operation', retryable: true },
  UNSUPPORTED: { scope: 'operation', retryable: false },
  OUT_OF_MEMORY: { scope: 'operation', retryable: true },
  NATIVE_FAILURE: { scope: 'operation', retryable: false },
  PLAN_INFEASIBLE: { scope: 'operation', retryable: false },
  /** The memory that a different process offers must not be mapped. */
  MEMORY_REFUSED: { scope: 'operation', retryable: false },
  // engine
  ENGINE_UNREACHABLE: { scope: 'engine', retryable: true },
  ENGINE_PROTOCOL: { scope: 'engine', retryable: false },
  ENGINE_UNAUTHORIZED: { scope: 'engine', retryable: false },
  ENGINE_WORKER_ERROR: { scope: 'engine', retryable: true },
  ENGINE_WORKER_LOST: { scope: 'engine', retryable: true },
  ROUTES_STALE: { scope: 'engine', retryable: true },
  /** A different parameter server is updating the engine. */
  ENGINE_BUSY: { scope: 'engine', retryable: true },
  DIGEST_MISMATCH: { scope: 'engine', retryable: true },
  // rank
  RANK_LOST: { scope: 'rank', retryable: true },
  RANK_MISSING: { scope: 'rank', retryable: true },
  RENDEZVOUS_PROTOCOL: { scope: 'rank', retryable: false },
  RENDEZVOUS_REJECTED: { scope: 'rank', retryable: false },
  ADDON_UNAVAILABLE: { scope: 'rank', retryable: false },
  /** A one-sided endpoint does not answer, or its connection broke. */
  PEER_LOST: { scope: 'rank', retryable: true },
  /** The secret of a one-sided endpoint was not proven. */
  PEER_UNAUTHORIZED: { scope: 'rank', retryable: false },
  /** The server at an endpoint's address uses a different protocol, or is a different endpoint. */
  PEER_PROTOCOL: { scope: 'rank', retryable: false },
  // checkpoint
  CHECKPOINT_UNKNOWN: { scope: 'checkpoint', retryable: false },
  CHECKPOINT_EXISTS: { scope: 'checkpoint', retryable: false },
  CHECKPOINT_IN_USE: { scope: 'checkpoint', retryable: true },
  CHECKPOINT_MALFORMED: { scope: 'checkpoint', retryable: false },
  CHECKPOINT_UNREADABLE: { scope: 'checkpoint', retryable: true },
  /**
   * A file of the checkpoint was replaced, written to or removed during its registration: nothing is registered, and
   * registering again may succeed. After registration the code is `MEMORY_CHANGED`.
   */
  CHECKPOINT_CHANGED: { scope: 'checkpoint', retryable: true },
  METAS_MALFORMED: { scope: 'checkpoint', retryable: false },
  METAS_STALE: { scope: 'checkpoint', retryable: true },
  /**
   * Memory, or a file that is used in place, was replaced, truncated or written to since it was registered or offered: the
   * registration is no longer usable.
   */
  MEMORY_CHANGED: { scope: 'checkpoint', retryable: true },
  /** A one-sided endpoint does not know the region's key (any more), or the range is outside the region. */
  REGION_REFUSED: { scope: 'checkpoint', retryable: false },
} as const satisfies Record<string, CodeInfo>

/** A stable error code: a key of {@link ERROR_CODES}. */
export type ErrorCode = keyof typeof ERROR_CODES

/** Codes of failed HTTP requests to an engine: it cannot be reached, the connection broke, its answer is too long. */
export const ENGINE_HTTP_ERRORS = {
  unreachable: 'ENGINE_UNREACHABLE',
  lost: 'ENGINE_WORKER_LOST',
  malformed: 'ENGINE_PROTOCOL',
} as const satisfies Record<string, ErrorCode>

/** Structured fields that locate an error; all optional, all serialisable. */
export interface ErrorFields {
  readonly rank?: number
  readonly ranks?: readonly number[]
  readonly checkpoint?: string
  readonly file?: string
  readonly tensor?: string
  readonly field?: string
  readonly peer?: string
  readonly epoch?: number
  /** The failing library's own error number, for example `ENOENT`'s 2 or a CUDA result. */
  readonly errno?: number
  /** Traceback of the remote side, as it printed it. */
  readonly traceback?: string
  readonly [key: string]: unknown
}

/** A {@link CkptError} as plain data, for crossing process boundaries. */
export interface SerializedError {
  readonly code: ErrorCode
  readonly message: string
  readonly fields: ErrorFields
  readonly cause?: SerializedError
}

const MARKER = Symbol.for('ckpt.error')

/** The one error class of ckpt. Recognise it with {@link CkptError.is}, which also works across copies of this package. */
export class CkptError extends Error {
  override readonly name = 'CkptError'
  readonly code: ErrorCode
  readonly fields: ErrorFields

  constructor(code: ErrorCode, message: string, options: { fields?: ErrorFields; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.fields = options.fields ?? {}
    Object.defineProperty(this, MARKER, { value: true })
  }

  /** Part that has to be rebuilt. */
  get scope(): ErrorScope {
    return ERROR_CODES[this.code].scope
  }

  /** True if the same call may succeed when repeated. */
  get retryable(): boolean {
    return ERROR_CODES[this.code].retryable
  }

  /** Returns true if `value` is a {@link CkptError}, optionally with the given code. */
  static is(value: unknown, code?: ErrorCode): value is CkptError {
    return value instanceof Error && MARKER in value && (code === undefined || (value as unknown as CkptError).code === code)
  }

  /** Returns `value` itself if it is a {@link CkptError}, otherwise a new one with the given code and `value` as its cause. */
  static from(value: unknown, code: ErrorCode, message?: string, fields?: ErrorFields): CkptError {
    if (CkptError.is(value)) return value
    const text = value instanceof Error ? value.message : String(value)
    return new CkptError(code, message === undefined ? text : `${message}: ${text}`, {
      cause: value,
      ...(fields && { fields }),
    })
  }

  /** Returns this error with those of `fields` added that it lacks; the same code, message, cause and stack. */
  with(fields: ErrorFields): CkptError {
    const copy = new CkptError(this.code, this.message, { fields: { ...fields, ...this.fields }, cause: this.cause })
    if (this.stack !== undefined) copy.stack = this.stack
    return copy
  }

  /** Returns plain data for a different process; {@link CkptError.deserialize} reads it back. */
  toJSON(): SerializedError {
    const cause =
      this.cause === undefined || this.cause === null
        ? undefined
        : CkptError.is(this.cause)
          ? this.cause.toJSON()
          : { code: 'NATIVE_FAILURE' as const, message: describe(this.cause), fields: {} }
    return { code: this.code, message: this.message, fields: this.fields, ...(cause && { cause }) }
  }

  /** Returns the error that {@link CkptError.toJSON} described; an unknown code (a newer peer's) becomes `UPDATE_FAILED`. */
  static deserialize(data: SerializedError): CkptError {
    const code: ErrorCode = Object.hasOwn(ERROR_CODES, data.code) ? data.code : 'UPDATE_FAILED'
    const cause = data.cause && CkptError.deserialize(data.cause)
    return new CkptError(code, data.message, { fields: data.fields, ...(cause && { cause }) })
  }
}

function describe(value: unknown): string {
  return value instanceof Error ? value.message : String(value)
}
