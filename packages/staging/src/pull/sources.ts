import {
  CkptError,
  ContiguousCopies,
  type BucketPull,
  type PulledSource,
  type PullRuns,
  type Reach,
  type ReachedRank,
} from '@ckpt/contract'
import type { Place } from './place.ts'
import { isReceiver } from './receiver-number.ts'
import { cutPull, type Slice } from './slices.ts'
import { isSourceFailure } from './source-failure.ts'
import { staleSource, staleText } from './stale.ts'

/** Options of the reads. */
export interface SourcesOptions {
  readonly checkpoint: string
  readonly reach: Reach
  /** Returns the reads of a bucket without the ranks in `lost`. */
  readonly pullOf: (bucket: number, lost: ReadonlySet<number>) => BucketPull
  /** The ranks are those of this update, and have gathered the metas for it. */
  readonly gathered: boolean
  /** Rank whose bytes need no connection, and how they are copied. */
  readonly own?: { readonly rank: number; copy(runs: PullRuns, place: Place): Promise<void> }
  readonly timeoutMs: number
  readonly signal: AbortSignal
}

/** Ranks that buckets are read from: their connections, and the lost ones. */
export class Sources {
  readonly #options: SourcesOptions
  readonly #peers = new Map<number, Promise<ReachedRank>>()
  /** Reason for each lost rank. */
  readonly lost = new Map<number, CkptError>()
  /** Bytes read by rank. */
  readonly bytes = new Map<number, number>()
  /** Wires of the ranks that bytes were read from. */
  readonly wires = new Map<number, Pick<PulledSource, 'wire' | 'measured'>>()

  constructor(options: SourcesOptions) {
    this.#options = options
  }

  /** Connects to a rank, unless that has begun before; a failure is reported when it is read from. */
  connect(rank: number): void {
    if (rank === this.#options.own?.rank) return
    this.#peer(rank).catch(() => undefined)
  }

  /**
   * Reads one bucket, or the bytes of it that are in `slice`, to its destination. Lost ranks are replaced by others that hold the same tensors.
   *
   * @throws CkptError `METAS_STALE` or `PEER_LOST` naming the tensors without a remaining source, and the reasons; `ABORTED`.
   */
  async read(bucket: number, place: Place, slice?: Pick<Slice, 'from' | 'bytes'>): Promise<void> {
    for (;;) {
      const whole = this.#options.pullOf(bucket, new Set(this.lost.keys()))
      const { from, missing } = slice ? cutPull(whole, slice, 0) : whole
      if (missing.length > 0) throw this.#exhausted(bucket, missing)
      const outcomes = await Promise.allSettled(from.map((runs) => this.#readRuns(runs, place)))
      const failures = outcomes.flatMap((outcome, index) =>
        outcome.status === 'rejected' ? [{ rank: from[index]!.rank, error: outcome.reason as unknown }] : [],
      )
      if (failures.length === 0) return
      for (const { rank, error } of failures) {
        if (!isSourceFailure(error)) throw error
        if (!this.lost.has(rank)) this.lost.set(rank, error)
      }
    }
  }

  async close(): Promise<void> {
    const peers = await Promise.allSettled(this.#peers.values())
    await Promise.all(peers.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value.peer.close()] : [])))
  }

  async #readRuns(runs: PullRuns, place: Place): Promise<void> {
    const { own, timeoutMs, signal } = this.#options
    if (runs.rank === own?.rank) return own.copy(runs, place)
    const { memory, offset } = place
    const { peer, point, measured } = await this.#peer(runs.rank)
    this.wires.set(runs.rank, { wire: point.endpoint.kind, ...(measured && { measured }) })
    const transfers = ContiguousCopies.from(
      Array.from({ length: runs.count }, (_, i) => ({
        source: runs.segment[i]!,
        sourceOffset: runs.segmentOffset[i]!,
        destination: 0,
        destinationOffset: offset + runs.bucketOffset[i]!,
        bytes: runs.bytes[i]!,
      })),
    )
    const { bytes } = await peer.read({
      regions: point.regions,
      memories: [memory],
      transfers,
      timeoutMs,
      signal,
    })
    this.bytes.set(runs.rank, (this.bytes.get(runs.rank) ?? 0) + bytes)
  }

  #peer(rank: number): Promise<ReachedRank> {
    let peer = this.#peers.get(rank)
    if (peer === undefined) {
      const { reach, timeoutMs, signal } = this.#options
      this.#peers.set(rank, (peer = reach.connect(rank, { timeoutMs, signal })))
    }
    return peer
  }

  /** Generation of the registration that the metas describe. */
  #generation(rank: number): number | undefined {
    return this.#options.reach.access.find((one) => one.rank === rank)?.points[0]?.generation
  }

  #exhausted(bucket: number, missing: readonly string[]): CkptError {
    const { checkpoint } = this.#options
    const reasons = [...this.lost].filter(([rank]) => !isReceiver(rank))
    // Nothing was ever read from them, so these metas describe memory that no longer exists. Ranks of one update gather them anew.
    const { gathered } = this.#options
    const stale = !gathered && reasons.every(([rank, error]) => error.code !== 'PEER_LOST' || !this.bytes.has(rank))
    const named = missing.slice(0, 5).join(', ') + (missing.length > 5 ? ` and ${missing.length - 5} more` : '')
    const sources = reasons.map(([rank, error]) => staleSource(rank, error))
    const why = sources.map((source, index) => staleText(source, reasons[index]![1], this.#generation(source.rank))).join('; ')
    return new CkptError(
      stale ? 'METAS_STALE' : 'PEER_LOST',
      `no source is left for ${named} of ${checkpoint} (bucket ${bucket}): ${why}`,
      {
        cause: reasons[0]?.[1],
        fields: {
          checkpoint,
          tensor: missing[0]!,
          tensors: missing.slice(0, 100),
          ranks: reasons.map(([rank]) => rank),
          sources,
        },
      },
    )
  }
}
