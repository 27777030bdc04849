import { startReminders, type Waiting } from '@ckpt/contract'

/** Waits for `promise`; after a second, and again every ten seconds, reports to `onWaiting` that `rank` waits for `what`. */
export async function namedWait<T>(
  promise: Promise<T>,
  { what, rank, onWaiting }: { what: string; rank: number; onWaiting: (waiting: Waiting) => void },
): Promise<T> {
  const stop = startReminders((sinceMs) => onWaiting({ what, sinceMs, rank }))
  try {
    return await promise
  } finally {
    stop()
  }
}
