import { CkptError } from '@ckpt/contract'
import { onAbort } from './signals.ts'

/**
 * Returns the result of `promise`, or throws once `timeoutMs` have passed or `signal` is aborted. The promise itself continues;
 * the caller has to stop its work.
 *
 * @throws CkptError `code` (default `TIMEOUT`) naming `what`, or the signal's reason.
 */
export async function withDeadline<T>(
  promise: Promise<T>,
  options: { what: string; timeoutMs: number; signal?: AbortSignal | undefined; code?: 'TIMEOUT' | 'ENGINE_UNREACHABLE' },
): Promise<T> {
  const { what, timeoutMs, signal, code = 'TIMEOUT' } = options
  let stop = () => {}
  const end = new Promise<never>((_, reject) => {
    const timer = setTimeout(() => reject(new CkptError(code, `waited ${timeoutMs} ms for ${what}`)), timeoutMs)
    const stopListening = onAbort(signal, () => reject(abortError(signal!)))
    stop = () => {
      clearTimeout(timer)
      stopListening()
    }
  })
  try {
    return await Promise.race([promise, end])
  } finally {
    stop()
  }
}

/** Returns the reason of an aborted signal as a CkptError (`ABORTED` unless it already is one). */
export function abortError(signal: AbortSignal): CkptError {
  const reason: unknown = signal.reason
  if (CkptError.is(reason)) return reason
  const text = reason instanceof Error ? reason.message : String(reason)
  return new CkptError(reason instanceof Error && reason.name === 'TimeoutError' ? 'TIMEOUT' : 'ABORTED', text, {
    cause: reason,
  })
}
