import type { Collective, PipelineStats, Ring } from './device.ts'
import type { EngineSession, RingTensor } from './engine.ts'
import type { HostMemory } from './host.ts'
import type { Manifest } from './manifest.ts'
import type { CopyColumns, TransferPlan } from './plan.ts'
import type { PullReport } from './update-report.ts'

/** What a plan of buckets is made for. Sizes in bytes. */
export interface PlanOptions {
  /** Ranks that take part; all of the manifest's by default. */
  readonly ranks?: readonly number[]
  /** The most the ring may take: the minimum over the ranks. */
  readonly ringBytes: number
  /**
   * Bucket size to keep to where the ring allows it. Absent, it is at most `maxBucketBytes` and small enough for eight rounds, so
   * that loading one bucket overlaps with moving others even where the checkpoint is small.
   */
  readonly preferredBucketBytes?: number
  /** Largest bucket size to choose where none is preferred (default 256 MiB). */
  readonly maxBucketBytes?: number
  /** Buckets are not made smaller than this to fit more of them into the ring (default 1 MiB). */
  readonly minBucketBytes?: number
  /** What the pipeline overlaps inside a bucket (default 8 MiB). */
  readonly chunkBytes?: number
  /** Rounds that the ring is to hold (default 3). */
  readonly lookahead?: number
}

/** A plan, with this rank's copies. */
export interface PlannedUpdate {
  readonly plan: TransferPlan
  /** From this rank's segments into the buckets that it owns. */
  readonly copies: CopyColumns
}

/** How buckets come into the rings: what is different between strategies that bring everything through one. */
export interface StagedWay {
  readonly name: string
  /** What its plans depend on, besides the manifest and the options. */
  readonly variant?: string
  /** @throws CkptError `PLAN_INFEASIBLE`, `INVALID_ARGUMENT`. */
  plan(manifest: Manifest, rank: number, options: PlanOptions): PlannedUpdate
  /** Runs the plan on this rank. @throws CkptError of whatever failed first; nothing is under way then. */
  run(context: StagedContext): Promise<StagedResult>
}

/** What a plan of buckets is run with on one rank. */
export interface StagedContext extends PlannedUpdate {
  readonly rank: number
  readonly manifest: Manifest
  /** The tensors of a bucket as they lie in the ring. */
  readonly tensorsOf: (bucket: number) => readonly RingTensor[]
  readonly ring: Ring
  readonly collective: Collective
  readonly session: EngineSession
  /** This rank's segments of the checkpoint, by segment index; leased for the whole update. */
  readonly segments: readonly HostMemory[]
  readonly timeoutMs: number
  readonly signal: AbortSignal
  /** Called with the bytes that this rank's worker has loaded so far. */
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}

export interface StagedResult {
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

/** What one rank pulled from others, and when. */
export interface PullStats extends PullReport {
  /** [bucket, start, end] of each pull, in milliseconds since the pipeline began. */
  readonly spans: Float64Array
}
