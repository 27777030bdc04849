import type { CopyColumns, Host, HostMemory, StagedContext, TransferPlan } from '@ckpt/contract'
import { alignUp } from '@ckpt/utils'
import type { Place } from './place.ts'

/** Maximum number of bounce buffers of a receiver: one that is filled, one that is copied and two that wait. */
const SLOTS = 4
/** Bounce memory in bytes, unless two buffers need more. */
const BOUNCE_BYTES = 2 ** 30

/** Place where a receiver's buckets arrive before or when they enter its ring. */
export interface Landing {
  /** `ring`: the pipeline reports when a place is free (`onWritable`); `sources`: `delivered` does. */
  readonly into: 'ring' | 'sources'
  readonly copies: CopyColumns
  readonly sources: readonly HostMemory[]
  /** Returns the place of own bucket number `turn` (its number among the own ones). */
  placeOf(bucket: number, turn: number): Place
  /** Maximum number of own buckets that are being read or wait to be copied. */
  readonly slots: number
  close(): void
}

/** Positions of the buckets that a receiver keeps, by their turn among those it pulls. */
export interface KeptPlaces {
  readonly memories: readonly HostMemory[]
  /** Index into `memories`. */
  readonly segment: Uint32Array
  readonly offset: Float64Array
}

/** Lands directly in the ring, if it is in host memory. */
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

/**
 * Lands in a few buffers of pinned memory in turn, from which the device copies. `own`: the buckets of this receiver,
 * ascending.
 */
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

/** Lands in memory that is kept, from which the device copies. `own`: the buckets of this receiver, ascending. */
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

/** Returns a copy for each own bucket, from where it lands. */
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

/** Returns no copies, for a receiver that only pulls. */
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
