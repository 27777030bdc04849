import type { Collective, PipelineStats, Ring } from './device.ts'
import type { DirectJob, DirectStats } from './direct.ts'
import type { EngineSession, RingTensor } from './engine.ts'
import type { Host, HostMemory } from './host.ts'
import type { EndpointDescriptor, OneSided, RegionDescriptor } from './one-sided.ts'
import type { BucketPull, CopyColumns, TransferPlan } from './plan.ts'

/** An endpoint through which one rank's segments of a checkpoint can be read. Plain JSON. */
export interface AccessPoint {
  readonly endpoint: EndpointDescriptor
  /** By segment index. Keys are those of one registration of the checkpoint: a later one has others. */
  readonly regions: readonly RegionDescriptor[]
  /** Number of that registration among all that the endpoint has served, from 1; absent where it was not said. */
  readonly generation?: number
  /** What the endpoint wants proven. */
  readonly secret: string
}

/** How others read what one rank holds of a checkpoint. */
export interface RankAccess {
  readonly rank: number
  /** The best first; a reader takes the first of a kind that it has. Empty where the rank serves nothing. */
  readonly points: readonly AccessPoint[]
}

/** Where buckets that a receiver keeps lie, by their turn among those it pulls. */
export interface KeptPlaces {
  readonly memories: readonly HostMemory[]
  /** Index into `memories`. */
  readonly segment: Uint32Array
  readonly offset: Float64Array
}

/** What receivers of a p2p update pull with. */
export interface PullContext {
  readonly checkpoint: string
  /** Of the ranks in the manifest. */
  readonly access: readonly RankAccess[]
  /** This rank's endpoints, to connect from. */
  readonly endpoints: readonly OneSided[]
  /** Makes memory that the device copies from. */
  readonly host: Host
  /** From where a bucket can be read without the ranks in `lost`. */
  readonly pullOf: (bucket: number, lost: ReadonlySet<number>) => BucketPull
  /**
   * Makes memory in which these buckets, the receiver's own in plan order, stay; given where the strategy keeps what it pulls. The memory
   * is not the strategy's to close. @throws CkptError `CHECKPOINT_EXISTS`, `OUT_OF_MEMORY`.
   */
  readonly keep?: (own: readonly number[]) => Promise<KeptPlaces>
}

/** What a strategy works with on one rank. */
export interface StrategyContext {
  readonly rank: number
  readonly plan: TransferPlan
  /** Copies from `segments` into the buckets this rank owns. */
  readonly copies: CopyColumns
  /** The tensors of a bucket as they lie in the ring. */
  readonly tensorsOf: (bucket: number) => readonly RingTensor[]
  readonly ring: Ring
  readonly collective: Collective
  readonly session: EngineSession
  /** This rank's segments of the checkpoint, by segment index; leased for the whole update. */
  readonly segments: readonly HostMemory[]
  /** What this rank pulls with, in a p2p update. */
  readonly pull?: PullContext
  readonly timeoutMs: number
  readonly signal: AbortSignal
  /** Called with the bytes that this rank's worker has loaded so far. */
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}

export interface StrategyResult {
  readonly stats: PipelineStats
  /** Time the worker reported for loading, in milliseconds. */
  readonly reloadMs: number
  /** `performance.now()` just before the pipeline began: the zero of `stats.spans` and `reloadSpans`. */
  readonly startedAt: number
  /** [bucket, start, end] of each load, in milliseconds since the pipeline began: from handing it over to the worker's answer. */
  readonly reloadSpans: Float64Array
  /** What was pulled from other ranks, where anything was. */
  readonly pull?: PullStats
}

/** What one rank pulled from others. */
export interface PullStats {
  readonly bytes: number
  /** Time in which at least one read was under way, in milliseconds. */
  readonly busyMs: number
  /** Bytes by rank of the manifest. */
  readonly sources: readonly { readonly rank: number; readonly bytes: number }[]
  /** Ranks that could not be read from (any more), with the reason. */
  readonly lost: readonly { readonly rank: number; readonly code: string; readonly message: string }[]
  /** [bucket, start, end] of each pull, in milliseconds since the pipeline began. */
  readonly spans: Float64Array
}

/** Executes a plan over the interfaces it is given. */
export interface StagedStrategy {
  readonly name: 'broadcast' | 'p2p'
  /** The ranks that receive; absent means all. */
  readonly ranks?: readonly number[]
  /** What a receiver pulls stays in its host memory, as a checkpoint that is registered under the same name. */
  readonly keep?: boolean
  execute(context: StrategyContext): Promise<StrategyResult>
}

/** What a direct update works with on one rank. */
export interface DirectContext {
  readonly rank: number
  /** Copies from host memory into parameters, ready to run. */
  readonly job: DirectJob
  /** Brings the opaque tensors through the ring; absent where there are none. */
  readonly staged?: () => Promise<StrategyResult>
  readonly signal: AbortSignal
  /** Called with the bytes that this rank has written so far. */
  readonly onProgress?: (writtenBytes: number, totalBytes: number) => void
  readonly totalBytes: number
}

export interface DirectResult {
  readonly stats: DirectStats
  /** `performance.now()` just before the copies began: the zero of `stats.spans`. */
  readonly startedAt: number
  readonly staged?: StrategyResult
}

/**
 * Writes only the bytes that each engine worker needs, straight into its parameters, once the engine was seen loading them. Until
 * then, and where it cannot be done, updates are staged; the report says why.
 */
export interface DirectStrategy {
  readonly name: 'direct'
  /** Fail rather than stage an update that could have been recorded already, or that cannot be direct. */
  readonly required: boolean
  /** The second update after a recording and then each so-many-th has one layer checked by the engine's own loader; 0: none. */
  readonly checkEvery: number
  execute(context: DirectContext): Promise<DirectResult>
}

export type Strategy = StagedStrategy | DirectStrategy
