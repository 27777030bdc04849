import type { BucketColumns, ItemColumns } from '@ckpt/contract'
import type { Packed } from './pack.ts'

/** Buckets of all owners in their order, without their places in the ring. */
export interface Ordered {
  readonly rounds: number
  readonly buckets: Pick<BucketColumns, 'count' | 'owner' | 'round' | 'bytes' | 'firstItem'>
  readonly items: ItemColumns
}

/** Interleaves the owners' buckets: round by round, in each round one bucket of every owner that has any left, by ascending rank. */
export function orderInRounds(owners: readonly Packed[]): Ordered {
  const count = owners.reduce((total, { bytes }) => total + bytes.length, 0)
  const itemCount = owners.reduce((total, { rows }) => total + rows.length, 0)
  const rounds = owners.reduce((most, { bytes }) => Math.max(most, bytes.length), 0)
  const owner = new Uint32Array(count)
  const round = new Uint32Array(count)
  const bytes = new Float64Array(count)
  const firstItem = new Uint32Array(count + 1)
  const tensor = new Uint32Array(itemCount)
  const bucketOffset = new Float64Array(itemCount)
  let bucket = 0
  let item = 0
  for (let turn = 0; turn < rounds; turn++) {
    for (const packed of owners) {
      if (turn >= packed.bytes.length) continue
      owner[bucket] = packed.rank
      round[bucket] = turn
      bytes[bucket] = packed.bytes[turn]!
      firstItem[bucket] = item
      const { rows, offsets, firstRow } = packed
      const to = firstRow[turn + 1]!
      // Runs are short: a loop beats making two views a bucket.
      for (let row = firstRow[turn]!; row < to; row++) {
        tensor[item] = rows[row]!
        bucketOffset[item] = offsets[row]!
        item++
      }
      bucket++
    }
  }
  firstItem[count] = item
  return { rounds, buckets: { count, owner, round, bytes, firstItem }, items: { count: itemCount, tensor, bucketOffset } }
}
