/** A wait that has lasted longer than a second. */
export interface Waiting {
  /** Object of the wait, with its socket, URL or ranks, and a hint for the case that it does not arrive. */
  readonly what: string
  /** Duration so far, in milliseconds. */
  readonly sinceMs: number
  /** Waiting rank, if known. */
  readonly rank?: number
  /** Ranks that are waited for. */
  readonly ranks?: readonly number[]
}

/** Milliseconds after which a wait is first reported; then again every {@link AGAIN_MS}. */
export const FIRST_MS = 1000
export const AGAIN_MS = 10_000

/**
 * Calls `tell` with the time waited so far, in milliseconds: after a second, then every ten seconds, until the returned
 * function is called.
 */
export function startReminders(tell: (sinceMs: number) => void): () => void {
  const began = performance.now()
  let timer: NodeJS.Timeout
  const arm = (ms: number) => {
    timer = setTimeout(() => {
      arm(AGAIN_MS)
      tell(performance.now() - began)
    }, ms)
    timer.unref()
  }
  arm(FIRST_MS)
  return () => clearTimeout(timer)
}
