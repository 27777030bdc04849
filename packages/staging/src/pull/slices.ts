import type { BucketPull, PullRuns, TransferPlan } from '@ckpt/contract'
import { alignUp } from '@ckpt/utils'

/** Slices are not made smaller than this. */
const LEAST_BYTES = 64 * 1024
const PAGE = 4096

/** Part of a bucket, by its bytes. */
export interface Slice {
  readonly group: number
  readonly from: number
  readonly bytes: number
}

/**
 * Cuts buckets into slices of about equal size, one for each group. A bucket too small for that has fewer, and the next one goes on
 * with the group after its last: so all groups have about as much, whatever the sizes of the buckets are.
 */
export class Slices {
  readonly #bytes: Float64Array
  readonly #groups: number
  /** Group of each bucket's first slice. */
  readonly #first: Uint32Array

  constructor({ buckets }: Pick<TransferPlan, 'buckets'>, groups: number) {
    this.#bytes = buckets.bytes
    this.#groups = groups
    this.#first = new Uint32Array(buckets.count)
    let next = 0
    for (let bucket = 0; bucket < buckets.count; bucket++) {
      this.#first[bucket] = next
      next = (next + this.#count(bucket)) % groups
    }
  }

  /** Returns all slices of a bucket, ascending. */
  of(bucket: number): Slice[] {
    return Array.from({ length: this.#count(bucket) }, (_, index) =>
      this.#slice(bucket, index, (this.#first[bucket]! + index) % this.#groups),
    )
  }

  /** Returns a group's slice of a bucket; undefined if it has none. */
  find(bucket: number, group: number): Slice | undefined {
    const index = (group - this.#first[bucket]! + this.#groups) % this.#groups
    return index < this.#count(bucket) ? this.#slice(bucket, index, group) : undefined
  }

  #step(bucket: number): number {
    return Math.max(LEAST_BYTES, alignUp(Math.ceil(this.#bytes[bucket]! / this.#groups), PAGE))
  }

  #count(bucket: number): number {
    return Math.ceil(this.#bytes[bucket]! / this.#step(bucket))
  }

  #slice(bucket: number, index: number, group: number): Slice {
    const step = this.#step(bucket)
    return { group, from: index * step, bytes: Math.min(step, this.#bytes[bucket]! - index * step) }
  }
}

/** Returns the part of a bucket's reads whose bytes are in a slice; `at`: position of the slice's first byte at the destination. */
export function cutPull({ from, missing }: BucketPull, slice: Pick<Slice, 'from' | 'bytes'>, at: number): BucketPull {
  return { from: from.map((runs) => cutRuns(runs, slice, at)).filter(({ count }) => count > 0), missing }
}

function cutRuns({ rank, ...runs }: PullRuns, { from, bytes }: Pick<Slice, 'from' | 'bytes'>, at: number): PullRuns {
  const rows: { segment: number; segmentOffset: number; bucketOffset: number; bytes: number }[] = []
  for (let run = 0; run < runs.count; run++) {
    const start = runs.bucketOffset[run]!
    const first = Math.max(start, from)
    const end = Math.min(start + runs.bytes[run]!, from + bytes)
    if (first >= end) continue
    const segmentOffset = runs.segmentOffset[run]! + first - start
    rows.push({ segment: runs.segment[run]!, segmentOffset, bucketOffset: at + first - from, bytes: end - first })
  }
  const column = (name: keyof (typeof rows)[number]) => Float64Array.from(rows, (row) => row[name])
  return {
    rank,
    count: rows.length,
    segment: column('segment'),
    segmentOffset: column('segmentOffset'),
    bucketOffset: column('bucketOffset'),
    bytes: column('bytes'),
  }
}
