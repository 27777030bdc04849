import type { CopyColumns, Host, HostMemory, StagedContext, TransferPlan } from '@ckpt/contract'
import { alignUp } from '@ckpt/utils'
import type { KeptPlaces } from './keeper.ts'
import type { Place } from './sources.ts'

/** Bounce buffers a receiver has at most: enough for one that arrives, one that is copied and two that wait. */
const SLOTS = 4
/** Bounce memory in bytes, unless two buffers need more. */
const BOUNCE_BYTES = 2 ** 30

/** Where a receiver's buckets land before or as they come into its ring. */
export interface Landing {
  /** Whether the pipeline says when a place is free (`onWritable`), or this does, by `delivered`. */
  readonly into: 'ring' | 'sources'
  readonly copies: CopyColumns
  readonly sources: readonly HostMemory[]
  /** Where own bucket number `turn` (its number among the own ones) goes. */
  placeOf(bucket: number, turn: number): Place
  /** How many own buckets may be under way or wait to be copied. */
  readonly slots: number
  close(): void
}

/** Straight into the ring, where that lies in host memory. */
export function ringLanding({ plan }: StagedContext, place: Place): Landing {
  const { buckets } = plan
  return {
    into: 'ring',
    copies: noCopies(buckets.count),
    sources: [],
    slots: Infinity,
    placeOf: (bucket) => ({ memory: place.memory, offset: place.offset + buckets.ringOffset[bucket]! }),
    close: () => undefined,
  }
}

/** Into a few buffers of pinned memory in turn, from where the device copies. `own`: the buckets of this receiver, ascending. */
export async function bounceLanding({ plan }: StagedContext, host: Host, own: readonly number[]): Promise<Landing> {
  const { buckets } = plan
  const slotBytes = own.reduce((most, bucket) => Math.max(most, alignUp(buckets.bytes[bucket]!, PAGE)), PAGE)
  const slots = Math.max(1, Math.min(SLOTS, own.length, Math.max(2, Math.floor(BOUNCE_BYTES / slotBytes))))
  const memory = await host.allocate({ bytes: slots * slotBytes })
  const offsetOf = (turn: number) => (turn % slots) * slotBytes
  return {
    into: 'sources',
    sources: [memory],
    copies: copiesInto(
      plan,
      own,
      new Uint32Array(own.length),
      Float64Array.from(own, (_, turn) => offsetOf(turn)),
    ),
    slots,
    placeOf: (_, turn) => ({ memory, offset: offsetOf(turn) }),
    close: () => memory.close(),
  }
}

/** Into memory where they stay, from where the device copies. `own`: the buckets of this receiver, ascending. */
export function keptLanding({ plan }: StagedContext, places: KeptPlaces, own: readonly number[]): Landing {
  const { segment, offset, memories } = places
  return {
    into: 'sources',
    sources: memories,
    copies: copiesInto(plan, own, segment, offset),
    slots: Infinity,
    placeOf: (_, turn) => ({ memory: memories[segment[turn]!]!, offset: offset[turn]! }),
    close: () => undefined,
  }
}

const PAGE = 4096

/** A copy for each own bucket, from where it lands. */
function copiesInto(
  { buckets }: TransferPlan,
  own: readonly number[],
  segment: Uint32Array,
  segmentOffset: Float64Array,
): CopyColumns {
  const firstCopy = new Uint32Array(buckets.count + 1)
  own.forEach((bucket) => firstCopy[bucket + 1]!++)
  for (let bucket = 0; bucket < buckets.count; bucket++) firstCopy[bucket + 1]! += firstCopy[bucket]!
  return {
    count: own.length,
    segment,
    segmentOffset,
    bucketOffset: new Float64Array(own.length),
    bytes: Float64Array.from(own, (bucket) => buckets.bytes[bucket]!),
    firstCopy,
  }
}

/** Of a receiver: what it brings, it pulls. */
export function noCopies(buckets: number): CopyColumns {
  return {
    count: 0,
    segment: new Uint32Array(0),
    segmentOffset: new Float64Array(0),
    bucketOffset: new Float64Array(0),
    bytes: new Float64Array(0),
    firstCopy: new Uint32Array(buckets + 1),
  }
}
