import { CkptError } from '@ckpt/contract'

/**
 * `promise`, unless `timeoutMs` milliseconds pass or `signal` is aborted before it settles.
 *
 * @throws CkptError `TIMEOUT` saying what was waited for, or the signal's reason (`ABORTED` when that is no CkptError).
 */
export async function within<T>(
  promise: Promise<T>,
  timeoutMs: number,
  signal: AbortSignal | undefined,
  what: string,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  let abort: (() => void) | undefined
  const given = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new CkptError('TIMEOUT', `waited ${timeoutMs} ms for ${what}`)), timeoutMs)
    abort = (): void => reject(CkptError.from(signal?.reason, 'ABORTED', `waiting for ${what}`))
    if (signal?.aborted) abort()
    else signal?.addEventListener('abort', abort, { once: true })
  })
  try {
    return await Promise.race([promise, given])
  } finally {
    clearTimeout(timer)
    if (abort !== undefined) signal?.removeEventListener('abort', abort)
  }
}
