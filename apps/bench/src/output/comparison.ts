import type { Run } from '../result.ts'

/** A run's updates relative to the least time for them. */
export interface Comparison {
  /** Time of the compared update in milliseconds: the median, or the update with the median ratio. */
  readonly updateMs: number
  /** The least time for that update, in milliseconds. */
  readonly limitMs: number
  /** `updateMs` over `limitMs`. */
  readonly ratio: number
  /** Ratios of the updates nearest to and farthest from their limits. */
  readonly min: number
  readonly max: number
  /** True if each update has a limit of its own, measured right before it. */
  readonly each: boolean
}

/**
 * Compares updates with their limits on one base: each with the limit that was measured right before it, if there is one for
 * each (medians of both may be those of different updates), otherwise all with the same limit.
 */
export function comparisonOf(run: Run): Comparison {
  const own = run.engine === 'vllm' ? undefined : run.ratios
  const { samples } = run.updateMs
  if (own !== undefined && own.samples.length === samples.length) {
    const distance = (ratio: number) => Math.abs(ratio - own.median)
    const middle = own.samples.reduce(
      (best, ratio, index) => (distance(ratio) < distance(own.samples[best]!) ? index : best),
      0,
    )
    const [updateMs, ratio] = [samples[middle]!, own.samples[middle]!]
    return { updateMs, limitMs: updateMs / ratio, ratio, min: own.min, max: own.max, each: true }
  }
  const { median, min, max } = run.updateMs
  const limitMs = run.limit.updateMs
  return { updateMs: median, limitMs, ratio: median / limitMs, min: min / limitMs, max: max / limitMs, each: false }
}
