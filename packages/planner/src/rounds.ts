import type { BucketColumns, ItemColumns } from '@ckpt/contract'
import type { Packed } from './pack.ts'

/** Ordered buckets of all owners, without their places in the ring. */
export interface Ordered {
  readonly rounds: number
  readonly buckets: Pick<BucketColumns, 'count' | 'owner' | 'round' | 'bytes' | 'firstItem'>
  readonly items: ItemColumns
}

/**
 * Interleaves the owners' buckets by the time at which they can be ready. All owners copy at the same rate from the start on,
 * so a bucket is ready when its owner has copied it and all its earlier ones; ties go to the lower rank. Equal buckets
 * alternate, one of every owner in turn. While one owner copies a very large tensor, the others' buckets precede it instead of
 * waiting for it.
 *
 * A round is a run of buckets of different owners: it ends before the first owner's second bucket.
 */
export function orderInRounds(owners: readonly Packed[]): Ordered {
  const count = owners.reduce((total, { bytes }) => total + bytes.length, 0)
  const itemCount = owners.reduce((total, { rows }) => total + rows.length, 0)
  // Sorted by owner: the position among the owners, the turn of the bucket within its owner, and the time at which it is ready.
  const position = new Uint32Array(count)
  const turnOf = new Uint32Array(count)
  const ready = new Float64Array(count)
  let at = 0
  owners.forEach((packed, index) => {
    let copied = 0
    for (let turn = 0; turn < packed.bytes.length; turn++, at++) {
      copied += packed.bytes[turn]!
      position[at] = index
      turnOf[at] = turn
      ready[at] = copied
    }
  })
  const order = ascending(ready)

  const owner = new Uint32Array(count)
  const round = new Uint32Array(count)
  const bytes = new Float64Array(count)
  const firstItem = new Uint32Array(count + 1)
  const tensor = new Uint32Array(itemCount)
  const bucketOffset = new Float64Array(itemCount)
  const lastRound = new Int32Array(owners.length).fill(-1)
  let current = 0
  let item = 0
  for (let bucket = 0; bucket < count; bucket++) {
    const index = position[order[bucket]!]!
    const turn = turnOf[order[bucket]!]!
    const { rank, rows, offsets, firstRow, bytes: sizes } = owners[index]!
    if (lastRound[index] === current) current++
    lastRound[index] = current
    owner[bucket] = rank
    round[bucket] = current
    bytes[bucket] = sizes[turn]!
    firstItem[bucket] = item
    const to = firstRow[turn + 1]!
    // Runs are short: a loop is faster than two views per bucket.
    for (let row = firstRow[turn]!; row < to; row++) {
      tensor[item] = rows[row]!
      bucketOffset[item] = offsets[row]!
      item++
    }
  }
  firstItem[count] = item
  const rounds = count === 0 ? 0 : current + 1
  return { rounds, buckets: { count, owner, round, bytes, firstItem }, items: { count: itemCount, tensor, bucketOffset } }
}

/** Returns indices of `values` (whole numbers, not negative) by value, ties by index. */
function ascending(values: Float64Array): Uint32Array {
  const count = values.length
  const largest = values.reduce((most, value) => Math.max(most, value), 0)
  if ((largest + 1) * count > Number.MAX_SAFE_INTEGER) {
    return Uint32Array.from({ length: count }, (_, index) => index).sort((a, b) => values[a]! - values[b]! || a - b)
  }
  // Combines value and index in one number: sorting numbers without a comparison function is several times faster.
  const keys = values.map((value, index) => value * count + index).sort()
  return Uint32Array.from(keys, (key) => key % count)
}
