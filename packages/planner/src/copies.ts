import type { CopyColumns, Manifest, TransferPlan } from '@ckpt/contract'
import { MAX_GAP } from './align.ts'
import { metasOf } from './lookup.ts'

/**
 * Returns the copies that assemble the buckets owned by `rank` from its segments, merged if source and destination are
 * contiguous; small gaps between tensors are copied along.
 *
 * @throws CkptError `INVALID_ARGUMENT` if the manifest is not the plan's or lacks the rank.
 */
export function copiesFor(plan: TransferPlan, manifest: Manifest, rank: number): CopyColumns {
  const { segments, offsets, bytes: sizes } = metasOf(plan, manifest, rank).tensors
  const { buckets, items } = plan
  let most = 0
  for (let b = 0; b < buckets.count; b++)
    if (buckets.owner[b] === rank) most += buckets.firstItem[b + 1]! - buckets.firstItem[b]!
  const segment = new Uint32Array(most)
  const segmentOffset = new Float64Array(most)
  const bucketOffset = new Float64Array(most)
  const bytes = new Float64Array(most)
  const firstCopy = new Uint32Array(buckets.count + 1)
  let count = 0
  for (let b = 0; b < buckets.count; b++) {
    const first = count
    firstCopy[b] = first
    if (buckets.owner[b] !== rank) continue
    for (let item = buckets.firstItem[b]!; item < buckets.firstItem[b + 1]!; item++) {
      const row = items.tensor[item]!
      const size = sizes[row]!
      if (size === 0) continue
      const from = offsets[row]!
      const to = items.bucketOffset[item]!
      const last = count - 1
      if (last >= first && segment[last] === segments[row]) {
        const gap = from - segmentOffset[last]! - bytes[last]!
        if (gap >= 0 && gap <= MAX_GAP && to - bucketOffset[last]! === from - segmentOffset[last]!) {
          bytes[last]! += gap + size
          continue
        }
      }
      segment[count] = segments[row]!
      segmentOffset[count] = from
      bucketOffset[count] = to
      bytes[count] = size
      count++
    }
  }
  firstCopy[buckets.count] = count
  return {
    count,
    segment: segment.slice(0, count),
    segmentOffset: segmentOffset.slice(0, count),
    bucketOffset: bucketOffset.slice(0, count),
    bytes: bytes.slice(0, count),
    firstCopy,
  }
}
