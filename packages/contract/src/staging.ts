import type { Collective, PipelineStats, Ring } from './device.ts'
import type { EngineSession, RingTensor } from './engine.ts'
import type { Host, HostMemory } from './host.ts'
import type { Manifest } from './manifest.ts'
import type { CopyColumns, TransferPlan } from './plan.ts'
import type { Reach, SpreadAccess } from './reach.ts'
import type { PullReport } from './update-report.ts'

/** Options of a plan of buckets. Sizes in bytes. */
export interface PlanOptions {
  /** Ranks of the collective that moves the buckets; all of the manifest's by default. */
  readonly ranks?: readonly number[]
  /** Maximum size of the ring: the minimum over the ranks. */
  readonly ringBytes: number
  /**
   * Bucket size to use if the ring allows it. By default it is at most `maxBucketBytes` and small enough for eight rounds, so
   * that loading one bucket overlaps with moving others even if the checkpoint is small.
   */
  readonly preferredBucketBytes?: number
  /** Largest bucket size to choose if none is preferred (default 256 MiB). */
  readonly maxBucketBytes?: number
  /** Buckets are not made smaller than this to fit more of them into the ring (default 1 MiB). */
  readonly minBucketBytes?: number
  /** Size of the chunks that the pipeline overlaps inside a bucket (default 8 MiB). */
  readonly chunkBytes?: number
  /** Number of rounds that the ring should hold (default 3). */
  readonly lookahead?: number
}

/** A plan, with this rank's copies. */
export interface PlannedUpdate {
  readonly plan: TransferPlan
  /** Copies from this rank's segments into the buckets that it owns. */
  readonly copies: CopyColumns
}

/** Moves buckets into the rings: the part that differs between strategies that send everything through a ring. */
export interface StagedWay {
  readonly name: string
  /** Inputs of its plans besides the manifest and the options. */
  readonly variant?: string
  /** @throws CkptError `PLAN_INFEASIBLE`, `INVALID_ARGUMENT`. */
  plan(manifest: Manifest, rank: number, options: PlanOptions): PlannedUpdate
  /** Runs the plan on this rank. @throws CkptError of the first failure; nothing is in flight then. */
  run(context: StagedContext): Promise<StagedResult>
}

/** Context for running a plan of buckets on one rank. */
export interface StagedContext extends PlannedUpdate {
  readonly rank: number
  readonly manifest: Manifest
  /** Returns the tensors of a bucket as they are in the ring. */
  readonly tensorsOf: (bucket: number) => readonly RingTensor[]
  readonly ring: Ring
  readonly collective: Collective
  readonly session: EngineSession
  /** This rank's segments of the checkpoint, by segment index; leased for the whole update. */
  readonly segments: readonly HostMemory[]
  /** Makes and copies host memory. */
  readonly host: Host
  /** Returns access to the ranks that hold the checkpoint, for buckets that are pulled. */
  readonly reach: () => Promise<Reach>
  /** Access of the participating ranks to each other, if not all of them share memory. */
  readonly spread?: SpreadAccess
  readonly timeoutMs: number
  readonly signal: AbortSignal
  /** Called with the bytes that this rank's worker has loaded so far. */
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}

export interface StagedResult {
  readonly stats: PipelineStats
  /** Loading time that the worker reported, in milliseconds. */
  readonly reloadMs: number
  /** `performance.now()` just before the pipeline began: the zero of `stats.spans` and `reloadSpans`. */
  readonly startedAt: number
  /** [bucket, start, end] of each load, in milliseconds since the pipeline began: from the handover to the worker's answer. */
  readonly reloadSpans: Float64Array
  /** Bytes pulled from other ranks, if any. */
  readonly pull?: PullStats
}

/** Bytes that one rank pulled from others, with their times. */
export interface PullStats extends PullReport {
  /** [bucket, start, end] of each pull, in milliseconds since the pipeline began. */
  readonly spans: Float64Array
}
