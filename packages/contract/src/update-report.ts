import type { PipelineOrder } from './device.ts'
import type { OneSidedKind } from './one-sided.ts'
import type { PipelineMode } from './plan.ts'

/**
 * Extent of an update's comparison. `bytes`: everything that every engine worker keeps of every tensor, read from its
 * parameters after they were written, against the digests that the tensors were registered with. `sources`: every tensor in the
 * ring, before it was loaded, but not all parameters. `none`: less than that.
 */
export type VerificationLevel = 'bytes' | 'sources' | 'none'

/** Times of one rank's part of an update, in milliseconds. Stages overlap, so they may add up to more than the total. */
export interface StageTimes {
  readonly h2dMs: number
  readonly broadcastMs: number
  readonly reloadMs: number
  /** Time in which neither H2D nor broadcast could work. */
  readonly idleMs: number
}

/** A tensor that went through the ring in a direct update, with the reason and the rank whose engine worker requires it. */
export interface OpaqueReport {
  readonly name: string
  readonly reason: string
  readonly rank: number
}

/** Details of an update with the direct strategy. */
export interface DirectReport {
  /** Reason why the update was staged; absent if it was direct. */
  readonly fallback?: string
  /** Result of recording the engine's loader, if it was recorded. */
  readonly recorded?: string
  /**
   * Tensors of a staged update that the worker copied according to its recording, instead of giving them to the engine's
   * loader.
   */
  readonly replayed?: number
  readonly opaque: readonly OpaqueReport[]
  /**
   * Tensors that the engine's own loader loaded over the written parameters without changing them; absent if the update was not
   * checked.
   */
  readonly check?: { readonly layer: string; readonly tensors: number; readonly bytes: number }
  /** Byte counts of this rank. */
  readonly bytes?: {
    /** Bytes that the engine worker needed, without opaque tensors. */
    readonly needed: number
    /** Bytes that crossed this rank's host link. */
    readonly h2d: number
    /** Bytes that this rank forwarded to other workers, GPU to GPU. */
    readonly forwarded: number
    /** Bytes of opaque tensors, through the ring. */
    readonly opaque: number
    /** Bytes of `h2d` that were first read from memory of other hosts; absent if there were none. */
    readonly pulled?: number
    /** Bytes that all workers of the host needed, each byte once. */
    readonly nodeNeeded: number
  }
  readonly routes?: number
  /** Number of copies for the routes. */
  readonly copies?: number
  /** Number of parameters that routes write completely. */
  readonly parameters?: number
  /** Method by which the device copied. */
  readonly how?: string
}

/** Rate of a wire in a short measurement. */
export interface MeasuredWire {
  readonly kind: OneSidedKind
  readonly bytesPerSecond: number
}

/** What one rank pulled from another. */
export interface PulledSource {
  /** Rank of the manifest. */
  readonly rank: number
  readonly bytes: number
  /** Wire that moved the bytes. */
  readonly wire: OneSidedKind
  /** Rates of the wires that both ranks have; absent if they have only one. */
  readonly measured?: readonly MeasuredWire[]
}

/** Bytes that one rank pulled from others. */
export interface PullReport {
  readonly bytes: number
  /** Time in which at least one read was in flight, in milliseconds. */
  readonly busyMs: number
  /** By rank of the manifest. */
  readonly sources: readonly PulledSource[]
  /** Bytes by rank of this update: receivers on other hosts, which had read them from the sources; absent if there were none. */
  readonly receivers?: readonly { readonly rank: number; readonly bytes: number }[]
  /** Ranks that could not be read from (any more), with the reason. */
  readonly lost: readonly { readonly rank: number; readonly code: string; readonly message: string }[]
}

/** Result of an attempt at an update on this rank: the strategy's part of the report. */
export interface UpdateOutcome {
  /** Strategy that finally moved the bytes: a direct update may have been staged. */
  readonly strategy: string
  readonly mode: PipelineMode
  readonly modeReason: string
  /** Order in time of H2D and broadcasts, and the reason for the choice; absent if there was no choice. */
  readonly order?: PipelineOrder
  /** Details of direct updates, if the strategy is `direct`. */
  readonly direct?: DirectReport
  /** Bytes that this rank pulled from other ranks, by source; in p2p updates. */
  readonly pull?: PullReport
  /** Bytes of the checkpoint's tensors, all of which this rank's worker received. */
  readonly bytes: number
  readonly tensors: number
  /**
   * Tensors that a previous attempt had already transferred to all ranks, so that they were not sent again; included in `bytes`
   * and `tensors`.
   */
  readonly kept?: { readonly tensors: number; readonly bytes: number }
  readonly buckets: number
  readonly ringBytes: number
  readonly bucketBytes: number
  /** Bytes that passed through this rank's copy engines: its own part of the checkpoint and broadcasts, both with padding. */
  readonly h2dBytes: number
  readonly broadcastBytes: number
  readonly stages: StageTimes
  /** Spans of the stages. */
  readonly spans: readonly OutcomeSpans[]
}

/** [stage, index, start, end] per span, in milliseconds since `zero`; stage 0 H2D, 1 broadcast, 2 reload, 3 pull. */
export interface OutcomeSpans {
  /** `performance.now()` at the zero of these spans. */
  readonly zero: number
  readonly rows: Float64Array
}
