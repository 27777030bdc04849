import { setTimeout as sleep } from 'node:timers/promises'
import { abortError } from './deadline.ts'

export interface PollOptions {
  /** Time for all attempts, in milliseconds. */
  readonly timeoutMs: number
  readonly signal?: AbortSignal | undefined
  /** Pause after the first attempt, in milliseconds (default 50); each further pause is twice as long. */
  readonly firstPauseMs?: number
  /** Longest pause, in milliseconds (default 1000). */
  readonly longestPauseMs?: number
}

/**
 * Calls `attempt` until it returns a value, with pauses in between.
 *
 * @param attempt gets the time that is left, in milliseconds; what it throws ends the polling
 * @returns the value, or undefined if the time is over
 * @throws CkptError the signal's reason (`ABORTED` unless it is a CkptError itself).
 */
export async function poll<T>(
  attempt: (leftMs: number) => Promise<T | undefined>,
  { timeoutMs, signal, firstPauseMs = 50, longestPauseMs = 1000 }: PollOptions,
): Promise<T | undefined> {
  const deadline = performance.now() + timeoutMs
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
    if (signal?.aborted) throw abortError(signal)
    const value = await attempt(Math.max(1, deadline - performance.now()))
    if (value !== undefined) return value
    if (signal?.aborted) throw abortError(signal)
    if (performance.now() + pauseMs > deadline) return undefined
    await sleep(pauseMs, undefined, { signal }).catch(() => undefined)
  }
}
