/** Something that has been waited for longer than a second. */
export interface Waiting {
  /** What is waited for, with its socket, URL or ranks, and what to look at when it does not come. */
  readonly what: string
  /** How long, in milliseconds, so far. */
  readonly sinceMs: number
  /** The rank that waits, where it is known. */
  readonly rank?: number
  /** Ranks that are waited for. */
  readonly ranks?: readonly number[]
}

/** After this many milliseconds it is said what is waited for, and again each {@link AGAIN_MS}. */
export const FIRST_MS = 1000
export const AGAIN_MS = 10_000

/** Calls `tell` with the time waited so far, in milliseconds: after a second, then every ten, until the function returned is called. */
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
