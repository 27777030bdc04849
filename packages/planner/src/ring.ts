import { alignUp } from '@ckpt/utils'
import { BLOCK_ALIGNMENT } from './align.ts'

/** Positions of buckets in the ring, and the buckets that must have left it before. */
export interface RingLayout {
  /** Number of used bytes of the ring. */
  readonly ringBytes: number
  readonly ringOffset: Float64Array
  /** Last earlier bucket whose bytes each one overwrites, or -1. */
  readonly after: Int32Array
}

/**
 * Places buckets one after another; if the rest of the ring is too short for one, it goes to the start. `surface` holds, by
 * position, which bucket last wrote each stretch of the ring, so that `after` is exact.
 *
 * @param bytes Bucket sizes; none above `ringBytes`.
 */
export function layOutRing(bytes: Float64Array, ringBytes: number): RingLayout {
  const count = bytes.length
  const ringOffset = new Float64Array(count)
  const after = new Int32Array(count)
  const ends: number[] = []
  const writers: number[] = []
  let head = 0
  let used = 0
  // Index of the first stretch that ends after the head.
  let cursor = 0
  for (let bucket = 0; bucket < count; bucket++) {
    const size = alignUp(bytes[bucket]!, BLOCK_ALIGNMENT)
    if (head + size > ringBytes) {
      head = 0
      cursor = 0
    }
    const end = head + size
    let last = -1
    let stop = cursor
    while (stop < ends.length && ends[stop]! <= end) last = Math.max(last, writers[stop++]!)
    // A stretch that extends beyond `end` keeps its rest.
    const start = stop === 0 ? 0 : ends[stop - 1]!
    if (stop < ends.length && Math.max(start, head) < end) last = Math.max(last, writers[stop]!)
    ends.splice(cursor, stop - cursor, end)
    writers.splice(cursor, stop - cursor, bucket)
    cursor++
    ringOffset[bucket] = head
    after[bucket] = last
    head = end
    used = Math.max(used, end)
  }
  return { ringBytes: used, ringOffset, after }
}
