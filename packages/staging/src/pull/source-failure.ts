import { CkptError } from '@ckpt/contract'

/** Error codes of a source that cannot be read from (any more); all other errors are this rank's own failures. */
const SOURCE_CODES = [
  'PEER_LOST',
  'PEER_PROTOCOL',
  'PEER_UNAUTHORIZED',
  'REGION_REFUSED',
  'METAS_STALE',
  'UNSUPPORTED',
] as const

/** Returns true if the source caused an error, so that a different source may work. */
export function isSourceFailure(error: unknown): error is CkptError {
  return CkptError.is(error) && (SOURCE_CODES as readonly string[]).includes(error.code)
}
