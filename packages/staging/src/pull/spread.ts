import { createHash } from 'node:crypto'
import {
  CkptError,
  type BucketPull,
  type HostMemory,
  type OpenedMemory,
  type PullRuns,
  type RankAccess,
  type ReachedRank,
  type SpreadAccess,
  type StagedContext,
  type TransferPlan,
} from '@ckpt/contract'
import { alignUp } from '@ckpt/utils'
import { copyRuns } from './copy-runs.ts'
import type { Place } from './place.ts'
import { numberOf } from './receiver-number.ts'
import { cutPull, Slices, type Slice } from './slices.ts'
import type { Sources } from './sources.ts'

/** Reads at once, as when buckets are pulled into the ring. */
const READS = 6
const PAGE = 4096

/** What a receiver opened to the others: its access data, and where its slices of buckets are. */
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
 * Buckets that several groups of receivers need. Every bucket is cut into slices: each slice is read from the bucket's holders by
 * one group, and by all others from that group. So the holders send each byte once, and all groups send about as much.
 *
 * A receiver that cannot be read from is replaced by the holders.
 */
export class Spread {
  readonly #context: StagedContext
  readonly #access: SpreadAccess
  readonly #slices: Slices
  readonly #own: OwnPart | undefined
  readonly #receivers: ReadonlyMap<number, Opened>
  /** By bucket: receivers that opened a slice of it, with its position there, by group. */
  readonly #places = new Map<number, Map<number, { readonly receiver: number; readonly offset: number }>>()

  private constructor(context: StagedContext, slices: Slices, own: OwnPart | undefined, receivers: readonly Opened[]) {
    this.#context = context
    this.#access = context.spread!
    this.#slices = slices
    this.#own = own
    this.#receivers = new Map(receivers.map((one) => [one.rank, one]))
    const groupOf = new Map(this.#access.groups.flatMap((ranks, group) => ranks.map((rank) => [rank, group])))
    for (const { rank, buckets, offsets } of receivers) {
      buckets.forEach((bucket, index) => {
        let places = this.#places.get(bucket)
        if (places === undefined) this.#places.set(bucket, (places = new Map<number, { receiver: number; offset: number }>()))
        places.set(groupOf.get(rank)!, { receiver: rank, offset: offsets[index]! })
      })
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
    const slices = new Slices(plan, spread.groups.length)
    const group = spread.groups.findIndex((ranks) => ranks.includes(rank))
    const parts: { readonly bucket: number; readonly slice: Slice; readonly offset: number }[] = []
    let bytes = 0
    for (const bucket of own) {
      const slice = slices.find(bucket, group)
      if (slice === undefined) continue
      parts.push({ bucket, slice, offset: bytes })
      bytes += alignUp(slice.bytes, PAGE)
    }
    const memory = bytes === 0 ? undefined : await allocate(context, bytes)
    let opened: OpenedMemory | undefined
    const close = async () => {
      await opened?.close()
      memory?.close()
    }
    try {
      if (memory) {
        opened = await spread.open(memory)
        await readAll(parts, ({ bucket, slice, offset }) => sources.read(bucket, { memory, offset }, slice))
      }
      const given = opened ? parts : []
      const mine: Opened = {
        rank,
        points: opened?.points ?? [],
        buckets: given.map(({ bucket }) => bucket),
        offsets: given.map(({ offset }) => offset),
      }
      return new Spread(context, slices, memory && { memory, close }, await spread.gather('spread/opened', mine))
    } catch (error) {
      await close()
      throw error
    }
  }

  /** Returns the reads of a bucket: of each slice from its receiver or, if that is among the lost, as in `pull`. */
  pullOf(bucket: number, pull: BucketPull, lost: ReadonlySet<number>): BucketPull {
    const places = this.#places.get(bucket)
    const from: PullRuns[] = []
    const missing = new Set<string>()
    for (const slice of this.#slices.of(bucket)) {
      const place = places?.get(slice.group)
      if (place === undefined || lost.has(numberOf(place.receiver))) {
        const cut = cutPull(pull, slice, slice.from)
        from.push(...cut.from)
        for (const name of cut.missing) missing.add(name)
        continue
      }
      from.push({
        rank: numberOf(place.receiver),
        count: 1,
        segment: Float64Array.of(0),
        segmentOffset: Float64Array.of(place.offset),
        bucketOffset: Float64Array.of(slice.from),
        bytes: Float64Array.of(slice.bytes),
      })
    }
    return { from, missing: [...missing] }
  }

  /** Copies what this receiver opened itself. */
  async copy(runs: PullRuns, place: Place): Promise<void> {
    await copyRuns(this.#context.host, [this.#own!.memory], runs, place)
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

/** Reads all parts; after a failure no more. Settles when no read is in flight: their memory may then be closed. */
async function readAll<T>(parts: readonly T[], read: (part: T) => Promise<void>): Promise<void> {
  let next = 0
  const reader = async (): Promise<void> => {
    try {
      for (let turn = next++; turn < parts.length; turn = next++) await read(parts[turn]!)
    } catch (error) {
      next = parts.length
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
