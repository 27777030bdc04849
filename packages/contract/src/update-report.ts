import type { PipelineOrder } from './device.ts'
import type { PipelineMode } from './plan.ts'

/**
 * What of an update was compared. `bytes`: what every engine worker keeps of every tensor, read from its parameters after they were written,
 * against the digests that the tensors were registered with. `sources`: every tensor as it lay in the ring, before it was loaded, but not
 * all parameters. `none`: less than that.
 */
export type VerificationLevel = 'bytes' | 'sources' | 'none'

/** Where one rank's part of an update spent its time, in milliseconds. Stages overlap, so they may add up to more than the whole. */
export interface StageTimes {
  readonly h2dMs: number
  readonly broadcastMs: number
  readonly reloadMs: number
  /** Time in which neither H2D nor broadcast could work. */
  readonly idleMs: number
}

/** A tensor that went through the ring in a direct update, why, and the rank whose engine worker makes it so. */
export interface OpaqueReport {
  readonly name: string
  readonly reason: string
  readonly rank: number
}

/** What was direct about an update whose strategy is. */
export interface DirectReport {
  /** Why the update was staged all the same; absent where it was direct. */
  readonly fallback?: string
  /** What watching the engine load brought, where that was done. */
  readonly recorded?: string
  /** Tensors of a staged update that the worker copied by its recording, instead of giving them to the engine's loader. */
  readonly replayed?: number
  readonly opaque: readonly OpaqueReport[]
  /** Tensors that the engine's own loader loaded over what was written, changing nothing; absent where the update was not one to check. */
  readonly check?: { readonly layer: string; readonly tensors: number; readonly bytes: number }
  /** The account of bytes on this rank. */
  readonly bytes?: {
    /** What the engine worker needed, without opaque tensors. */
    readonly needed: number
    /** What crossed this rank's host link. */
    readonly h2d: number
    /** What this rank handed on to other workers, GPU to GPU. */
    readonly forwarded: number
    /** Opaque tensors, through the ring. */
    readonly opaque: number
    /** What of `h2d` was read from memory of other hosts before; absent where nothing was. */
    readonly pulled?: number
    /** What all workers of the host needed, each byte once. */
    readonly nodeNeeded: number
  }
  readonly routes?: number
  /** Copies that the routes came to. */
  readonly copies?: number
  /** Parameters that routes write to the last byte. */
  readonly parameters?: number
  /** How the device copied. */
  readonly how?: string
}

/** What one rank pulled from others. */
export interface PullReport {
  readonly bytes: number
  /** Time in which at least one read was under way, in milliseconds. */
  readonly busyMs: number
  /** Bytes by rank of the manifest. */
  readonly sources: readonly { readonly rank: number; readonly bytes: number }[]
  /** Ranks that could not be read from (any more), with the reason. */
  readonly lost: readonly { readonly rank: number; readonly code: string; readonly message: string }[]
}

/** What an attempt at an update did on this rank: the strategy's part of the report. */
export interface UpdateOutcome {
  /** By which strategy bytes came in the end: a direct update may have been staged. */
  readonly strategy: string
  readonly mode: PipelineMode
  readonly modeReason: string
  /** How H2D and broadcasts were laid in time, and what that was chosen by; absent where there was nothing to choose. */
  readonly order?: PipelineOrder
  /** About direct updates, where the strategy is `direct`. */
  readonly direct?: DirectReport
  /** What this rank pulled from other ranks, and from which; in p2p updates. */
  readonly pull?: PullReport
  /** Bytes of the checkpoint's tensors, all of which this rank's worker was given. */
  readonly bytes: number
  readonly tensors: number
  /** What an attempt before this one had brought everywhere already, so that it was not sent again; it counts in `bytes` and `tensors`. */
  readonly kept?: { readonly tensors: number; readonly bytes: number }
  readonly buckets: number
  readonly ringBytes: number
  readonly bucketBytes: number
  /** What passed through this rank's copy engines: its own part of the checkpoint, and what was broadcast, both with padding. */
  readonly h2dBytes: number
  readonly broadcastBytes: number
  readonly stages: StageTimes
  /** What took how long. */
  readonly spans: readonly OutcomeSpans[]
}

/** [stage, index, start, end] per span, in milliseconds since `zero`; stage 0 H2D, 1 broadcast, 2 reload, 3 pull. */
export interface OutcomeSpans {
  /** `performance.now()` at the zero of these. */
  readonly zero: number
  readonly rows: Float64Array
}
