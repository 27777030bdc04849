import { createHash } from 'node:crypto'
import {
  CkptError,
  StridedCopies,
  type BucketPull,
  type HostMemory,
  type RankAccess,
  type ReachedRank,
  type SpreadAccess,
  type StagedContext,
  type TransferPlan,
} from '@ckpt/contract'
import { alignUp } from '@ckpt/utils'
import type { Place } from './place.ts'
import { numberOf } from './receiver-number.ts'
import type { Sources } from './sources.ts'

/** Reads at once, as when buckets are pulled into the ring. */
const READS = 6
const PAGE = 4096

/** What a receiver opened to the others: its access data, and where its buckets are. */
interface Opened extends RankAccess {
  readonly buckets: readonly number[]
  readonly offsets: readonly number[]
}

/** Memory that this receiver opened. */
interface OwnPart {
  readonly memory: HostMemory
  close(): Promise<void>
}

/**
 * Buckets that several groups of receivers need: each is read from its holders by one group, and by all others from that group.
 *
 * So the holders send each byte once, not once for each group. A receiver that cannot be read from is replaced by the holders.
 */
export class Spread {
  readonly #context: StagedContext
  readonly #access: SpreadAccess
  readonly #own: OwnPart | undefined
  readonly #receivers: ReadonlyMap<number, Opened>
  /** Receiver that opened each bucket, with its position there. */
  readonly #places = new Map<number, { readonly receiver: number; readonly offset: number }>()

  private constructor(context: StagedContext, own: OwnPart | undefined, receivers: readonly Opened[]) {
    this.#context = context
    this.#access = context.spread!
    this.#own = own
    this.#receivers = new Map(receivers.map((one) => [one.rank, one]))
    for (const { rank, buckets, offsets } of receivers) {
      buckets.forEach((bucket, index) => this.#places.set(bucket, { receiver: rank, offset: offsets[index]! }))
    }
  }

  /**
   * Reads this receiver's part from its holders, and opens it to the others. Returns undefined if nothing is gained, or if the
   * groups cut the checkpoint into different buckets. `own`: the buckets that this receiver brings to its group.
   */
  static async begin(context: StagedContext, own: readonly number[], sources: Sources): Promise<Spread | undefined> {
    const { plan, rank, spread } = context
    if (spread === undefined || spread.groups.length < 2 * new Set(plan.buckets.owner).size) return undefined
    const layouts = await spread.gather('spread/layout', layoutOf(plan))
    if (layouts.some((layout) => layout !== layouts[0])) return undefined
    const group = spread.groups.findIndex((ranks) => ranks.includes(rank))
    const buckets = own.filter((bucket) => bucket % spread.groups.length === group)
    const offsets: number[] = []
    let bytes = 0
    for (const bucket of buckets) {
      offsets.push(bytes)
      bytes += alignUp(plan.buckets.bytes[bucket]!, PAGE)
    }
    const memory = bytes === 0 ? undefined : await allocate(context, bytes)
    const opened = memory && { ...(await spread.open(memory)), memory }
    const close = async () => {
      await opened?.close()
      memory?.close()
    }
    try {
      if (memory) await readAll(buckets, (bucket, turn) => sources.read(bucket, { memory, offset: offsets[turn]! }))
      const mine: Opened = opened
        ? { rank, points: opened.points, buckets, offsets }
        : { rank, points: [], buckets: [], offsets: [] }
      return new Spread(context, memory && { memory, close }, await spread.gather('spread/opened', mine))
    } catch (error) {
      await close()
      throw error
    }
  }

  /** Returns the read of a bucket from its receiver; undefined if that is among the lost. */
  pullOf(bucket: number, lost: ReadonlySet<number>): BucketPull | undefined {
    const place = this.#places.get(bucket)
    if (place === undefined || lost.has(numberOf(place.receiver))) return undefined
    const one = (value: number) => Float64Array.of(value)
    const bytes = one(this.#context.plan.buckets.bytes[bucket]!)
    const runs = { count: 1, segment: one(0), segmentOffset: one(place.offset), bucketOffset: one(0), bytes }
    return { from: [{ rank: numberOf(place.receiver), ...runs }], missing: [] }
  }

  /** Copies a bucket that this receiver opened itself; returns false for all others. */
  async copy(bucket: number, { memory, offset }: Place): Promise<boolean> {
    const place = this.#places.get(bucket)
    if (place?.receiver !== this.#context.rank) return false
    const copies = StridedCopies.from([
      {
        source: 0,
        sourceOffset: place.offset,
        sourcePitch: 0,
        destination: 1,
        destinationOffset: offset,
        destinationPitch: 0,
        rowBytes: this.#context.plan.buckets.bytes[bucket]!,
        rows: 1,
      },
    ])
    await this.#context.host.copy([this.#own!.memory, memory], copies)
    return true
  }

  connect(number: number, options: { readonly timeoutMs: number; readonly signal: AbortSignal }): Promise<ReachedRank> {
    return this.#access.connect(this.#receivers.get(numberOf(number))!, options)
  }

  /** Waits until no receiver reads from another one any more. */
  async over(): Promise<void> {
    await this.#access.gather('spread/over', this.#context.rank)
  }

  /** Closes what this receiver opened. */
  async close(): Promise<void> {
    await this.#own?.close()
  }
}

/** Returns memory, or undefined if there is none: the others then read this receiver's part from its holders. */
async function allocate({ host }: StagedContext, bytes: number): Promise<HostMemory | undefined> {
  try {
    return await host.allocate({ bytes })
  } catch (error) {
    if (CkptError.is(error) && error.code === 'OUT_OF_MEMORY') return undefined
    throw error
  }
}

/** Reads all buckets; after a failure no more. Settles when no read is in flight: their memory may then be closed. */
async function readAll(buckets: readonly number[], read: (bucket: number, turn: number) => Promise<void>): Promise<void> {
  let next = 0
  const reader = async (): Promise<void> => {
    try {
      for (let turn = next++; turn < buckets.length; turn = next++) await read(buckets[turn]!, turn)
    } catch (error) {
      next = buckets.length
      throw error
    }
  }
  const outcomes = await Promise.allSettled(Array.from({ length: READS }, reader))
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
}

/** Returns a digest of how a plan cuts the checkpoint into buckets. */
function layoutOf({ manifestDigest, buckets, items }: TransferPlan): string {
  const hash = createHash('sha256').update(manifestDigest)
  for (const column of [buckets.bytes, buckets.firstItem, items.tensor, items.bucketOffset]) hash.update(column)
  return hash.digest('base64')
}
