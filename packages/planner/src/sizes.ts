import { CkptError, type Manifest, type PipelineMode } from '@ckpt/contract'
import { alignDown, alignUp } from '@ckpt/utils'
import { BLOCK_ALIGNMENT } from './align.ts'
import type { ResolvedOptions } from './options.ts'
import type { Share } from './owners.ts'

/** Number of ranks above which ranks no longer each have their own buckets in the ring. */
const MAX_LANES = 4
const MIN_ROUNDS = 8

export interface Sizes {
  readonly bucketBytes: number
  /** Ring size at which the pipeline never has to wait longer than necessary. */
  readonly wantedRingBytes: number
  readonly largest: number
  readonly totalBytes: number
}

/**
 * Chooses bucket size and ring size for these shares.
 *
 * @param lanes Ranks that copy buckets at the same time.
 * @param receivers Ranks among which the buckets are divided, if those are not their owners: each should get several.
 * @throws CkptError `PLAN_INFEASIBLE` naming the largest tensor if the ring cannot hold it.
 */
export function chooseSizes(
  manifest: Manifest,
  shares: readonly Share[],
  lanes: number,
  options: ResolvedOptions,
  receivers = 0,
): Sizes {
  const { largest, largestShare, totalBytes } = measure(manifest, shares, options)
  const limit = alignDown(options.ringLimit, BLOCK_ALIGNMENT)
  const slots = options.lookahead * Math.max(1, Math.min(lanes, MAX_LANES))
  const part = receivers > 0 ? Math.min(largestShare, totalBytes / receivers) : largestShare
  const spread = alignUp(Math.ceil(part / MIN_ROUNDS), BLOCK_ALIGNMENT)
  const preferred = options.preferredBucketBytes ?? Math.min(options.maxBucketBytes, Math.max(spread, options.minBucketBytes))
  const fitting = Math.min(preferred, Math.max(alignDown(Math.floor(limit / slots), BLOCK_ALIGNMENT), options.minBucketBytes))
  // If three of them do not fit, the pipeline is serial: one bucket at a time, which may then use all of the ring.
  const bucketBytes = 3 * fitting <= limit ? fitting : Math.min(preferred, limit)
  // A tensor over the bucket size has space next to the usual buckets, so that others pass while it is copied.
  const beside = largest > bucketBytes ? alignUp(largest, BLOCK_ALIGNMENT) : 0
  const wantedRingBytes = Math.min(limit, beside + slots * alignUp(bucketBytes, BLOCK_ALIGNMENT))
  return { bucketBytes, wantedRingBytes, largest, totalBytes }
}

/** Returns the mode in which the stages run, with the reason. */
export function chooseMode(sizes: Sizes, ringBytes: number, bucketsBytes: number): { mode: PipelineMode; modeReason: string } {
  const { bucketBytes } = sizes
  if (ringBytes >= bucketsBytes)
    return { mode: 'pipelined', modeReason: `the ring of ${ringBytes} bytes holds the whole checkpoint` }
  const held = Math.floor(ringBytes / bucketBytes)
  const what = `the ring of ${ringBytes} bytes holds ${held} bucket${held === 1 ? '' : 's'} of ${bucketBytes} bytes`
  return held >= 3 ? { mode: 'pipelined', modeReason: what } : { mode: 'serial', modeReason: `${what}; the pipeline needs 3` }
}

function measure(manifest: Manifest, shares: readonly Share[], { ringLimit }: ResolvedOptions) {
  let largest = 0
  let largestShare = 0
  let totalBytes = 0
  let at: readonly [position: number, row: number] = [0, 0]
  for (const { position, rows } of shares) {
    const { bytes } = manifest.ranks[position]!.tensors
    let share = 0
    for (let i = 0; i < rows.length; i++) {
      const size = bytes[rows[i]!]!
      share += size
      if (size > largest) {
        largest = size
        at = [position, rows[i]!]
      }
    }
    totalBytes += share
    largestShare = Math.max(largestShare, share)
  }
  if (Math.max(alignUp(largest, BLOCK_ALIGNMENT), BLOCK_ALIGNMENT) > ringLimit) {
    const tensor = manifest.ranks[at[0]]?.tensors.names.at(at[1]) ?? ''
    throw new CkptError('PLAN_INFEASIBLE', `tensor ${tensor} needs ${largest} bytes, but the ring may have only ${ringLimit}`, {
      fields: { tensor, field: 'ringBytes' },
    })
  }
  return { largest, largestShare, totalBytes }
}
