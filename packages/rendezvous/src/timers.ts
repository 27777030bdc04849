/** A timer that is later than this was delayed together with everything else: messages in time may still wait to be read. */
const STALL_MS = 250
const LONGEST_TIMEOUT_MS = 2 ** 31 - 1

/**
 * Calls `onExpire` after `ms` milliseconds. If the whole process was stalled (stopped, or busy in a long call) past the
 * deadline, messages that arrived in time get {@link STALL_MS} to be read first. Returns the function that cancels it.
 */
export function startDeadline(ms: number, onExpire: () => void): () => void {
  const due = performance.now() + ms
  let excused = false
  let timer: NodeJS.Timeout
  const arm = (delay: number) => {
    timer = setTimeout(fire, Math.min(delay, LONGEST_TIMEOUT_MS))
  }
  const fire = () => {
    const late = performance.now() - due
    if (late < -1) return arm(-late)
    if (late > STALL_MS && !excused) {
      excused = true
      return arm(STALL_MS)
    }
    onExpire()
  }
  arm(ms)
  return () => clearTimeout(timer)
}

/**
 * Calls `beat` every `intervalMs` with the time, in milliseconds, for which this process itself was stalled since the last call
 * (0 if it was not): silence of others during that time proves nothing. Returns the function that stops it.
 */
export function startHeartbeat(intervalMs: number, beat: (stalledMs: number) => void): () => void {
  let last = performance.now()
  const timer = setInterval(() => {
    const now = performance.now()
    const late = now - last - intervalMs
    last = now
    beat(late > intervalMs ? late : 0)
  }, intervalMs)
  return () => clearInterval(timer)
}
