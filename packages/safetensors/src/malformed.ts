import { CkptError } from '@ckpt/contract'

/** Part of a file that an error is about. */
export interface Place {
  readonly file: string
  readonly tensor?: string | undefined
  readonly field: string
}

/**
 * Quotes a name. Names come from files that may be hostile: long ones are truncated and control characters escaped before they
 * reach a log.
 */
export function quote(text: string): string {
  return JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text)
}

/** Returns a `CHECKPOINT_MALFORMED` error whose message starts with the file and the tensor. */
export function malformed(place: Place, message: string, cause?: unknown): CkptError {
  const tensor = place.tensor === undefined ? '' : ` tensor ${quote(place.tensor)}:`
  return new CkptError('CHECKPOINT_MALFORMED', `${place.file}:${tensor} ${message}`, {
    fields: {
      file: place.file,
      ...(place.tensor !== undefined && { tensor: place.tensor }),
      field: place.field,
    },
    ...(cause !== undefined && { cause }),
  })
}

/** Returns a `CHECKPOINT_UNREADABLE` error for a failed file system call on `file`. */
export function unreadable(file: string, cause: unknown, what = 'cannot be read'): CkptError {
  const error = cause instanceof Error ? cause : new Error(String(cause))
  const errno = (error as NodeJS.ErrnoException).errno
  return new CkptError('CHECKPOINT_UNREADABLE', `${file}: ${what}: ${error.message}`, {
    // Node reports errno negated; the field holds the system's own number.
    fields: { file, ...(errno !== undefined && { errno: Math.abs(errno) }) },
    cause,
  })
}
