import type { Manifest } from '@ckpt/contract'
import { alignUp } from '@ckpt/utils'
import { BLOCK_ALIGNMENT, MAX_GAP, TENSOR_ALIGNMENT } from './align.ts'
import type { Share } from './owners.ts'

/** One owner's buckets in segment order. */
export interface Packed {
  readonly rank: number
  /** Rows of the owner's table, bucket by bucket. */
  readonly rows: Uint32Array
  /** Offset of each of `rows` in its bucket. */
  readonly offsets: Float64Array
  /** Rows of bucket b are firstRow[b] … firstRow[b + 1] - 1. */
  readonly firstRow: number[]
  /** Size of each bucket. */
  readonly bytes: number[]
}

/**
 * Fills buckets with the tensors of each owner. Tensors that follow each other in memory keep their distance, so that a bucket
 * is one contiguous copy; if that would break the tensors' alignment, the next one starts at a new block. No bucket exceeds
 * `bucketBytes`, except if it is one larger tensor (and tensors of no bytes).
 */
export function packShares(manifest: Manifest, shares: readonly Share[], bucketBytes: number): Packed[] {
  const offsets = new Float64Array(shares.reduce((total, { rows }) => total + rows.length, 0))
  let start = 0
  return shares.map((share) => {
    const own = offsets.subarray(start, (start += share.rows.length))
    return packShare(manifest, share, bucketBytes, own)
  })
}

function packShare(manifest: Manifest, share: Share, bucketBytes: number, offsets: Float64Array): Packed {
  const { bytes: sizes, segments, offsets: places } = manifest.ranks[share.position]!.tensors
  const { rows } = share
  const firstRow = [0]
  const bytes: number[] = []
  let end = 0
  let segment = -1
  let segmentEnd = 0
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i]!
    const size = sizes[row]!
    // A tensor without bytes can be anywhere: it must not start a new bucket.
    if (size === 0) continue
    const place = places[row]!
    const gap = place - segmentEnd
    const inPlace = end + gap
    const follows = segments[row] === segment && gap >= 0 && gap <= MAX_GAP && (inPlace & (TENSOR_ALIGNMENT - 1)) === 0
    let offset = follows ? inPlace : alignUp(end, BLOCK_ALIGNMENT)
    if (end > 0 && offset + size > bucketBytes) {
      bytes.push(end)
      firstRow.push(i)
      offset = 0
    } else if (end === 0) {
      offset = 0
    }
    offsets[i] = offset
    end = offset + size
    segment = segments[row]!
    segmentEnd = place + size
  }
  bytes.push(Math.max(end, TENSOR_ALIGNMENT))
  firstRow.push(rows.length)
  return { rank: share.rank, rows, offsets, firstRow, bytes }
}
