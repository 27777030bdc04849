import type { Manifest, TransferPlan } from '@ckpt/contract'

/** Bytes to move: the manifest, and the bytes of each rank's tensors that an engine worker keeps. */
export interface Workload {
  readonly manifest: Manifest
  /** Bytes kept by each worker, by position in `manifest.ranks` and row of its table. */
  readonly kept: readonly Float64Array[]
}

/**
 * Returns a workload whose ranks hold `kept` (of all tensors in order) one after the other, as `sharedManifest` divides them.
 */
export function dealtWorkload(manifest: Manifest, kept: Float64Array): Workload {
  let at = 0
  return { manifest, kept: manifest.ranks.map(({ tensors }) => kept.subarray(at, (at += tensors.count))) }
}

/** Work of the engine's workers for each bucket of a plan. */
export interface BucketLoads {
  readonly keptBytes: Float64Array
  readonly tensors: Float64Array
}

/** Sums of {@link Workload.kept} by bucket. */
export function bucketLoads(plan: TransferPlan, { manifest, kept }: Workload): BucketLoads {
  const { buckets, items } = plan
  const keptBytes = new Float64Array(buckets.count)
  const tensors = new Float64Array(buckets.count)
  const position = new Map(manifest.ranks.map(({ rank }, index) => [rank, index]))
  for (let bucket = 0; bucket < buckets.count; bucket++) {
    const column = kept[position.get(buckets.owner[bucket]!)!]!
    const to = buckets.firstItem[bucket + 1]!
    let bytes = 0
    for (let item = buckets.firstItem[bucket]!; item < to; item++) bytes += column[items.tensor[item]!]!
    keptBytes[bucket] = bytes
    tensors[bucket] = to - buckets.firstItem[bucket]!
  }
  return { keptBytes, tensors }
}

/** Bytes that each rank holds, by position. */
export function heldBytes({ ranks }: Manifest): Float64Array {
  return Float64Array.from(ranks, ({ tensors }) => {
    let total = 0
    for (const bytes of tensors.bytes) total += bytes
    return total
  })
}

export function sum(values: Iterable<number>): number {
  let total = 0
  for (const value of values) total += value
  return total
}

export function largest(values: Iterable<number>): number {
  let most = 0
  for (const value of values) most = Math.max(most, value)
  return most
}
