import type { Verification, VerificationLevel } from './verify/verification.ts'
import type { PipelineMode, PipelineOrder, PullStats } from '@ckpt/contract'

/** Where one rank's part of an update spent its time, in milliseconds. Stages overlap, so they may add up to more than the whole. */
export interface StageTimes {
  readonly h2dMs: number
  readonly broadcastMs: number
  readonly reloadMs: number
  /** Time in which neither H2D nor broadcast could work. */
  readonly idleMs: number
}

/** Steps of an update, in milliseconds; they follow one another. */
export interface StepTimes {
  /** Epoch, engine readiness and what the ranks tell each other first. */
  readonly beginMs: number
  readonly planMs: number
  /** Ring, collective, and the worker's attach. */
  readonly attachMs: number
  readonly pipelineMs: number
  /** Release, the ranks' vote, commit. */
  readonly commitMs: number
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

/** What `update` resolves to. */
export interface UpdateReport {
  readonly checkpoint: string
  /** What the engine serves now. */
  readonly version: string
  readonly epoch: number
  readonly rank: number
  readonly strategy: 'broadcast' | 'p2p' | 'direct'
  readonly mode: PipelineMode
  readonly modeReason: string
  /** How H2D and broadcasts were laid in time, and what that was chosen by; absent where there was nothing to choose. */
  readonly order?: PipelineOrder
  /** About direct updates, where the strategy is `direct`. */
  readonly direct?: DirectReport
  /** Bytes of the checkpoint's tensors, all of which this rank's worker was given. */
  readonly bytes: number
  readonly tensors: number
  /** Attempts that it took, where it took more than one (`retry`). */
  readonly attempts?: number
  /** What an attempt before this one had brought everywhere already, so that it was not sent again; it counts in `bytes` and `tensors`. */
  readonly kept?: { readonly tensors: number; readonly bytes: number }
  readonly buckets: number
  readonly ringBytes: number
  readonly bucketBytes: number
  /** How far the update was verified; only `bytes` means that what serves was compared with what was registered. */
  readonly verified: VerificationLevel
  /** What was compared, and why no more. */
  readonly verification: Verification
  /** Digest of the manifest that was applied. */
  readonly digest: string
  /** What passed through this rank's copy engines: its own part of the checkpoint, and what was broadcast, both with padding. */
  readonly h2dBytes: number
  readonly broadcastBytes: number
  /** What this rank pulled from other ranks, and from which; in p2p updates. */
  readonly pull?: Omit<PullStats, 'spans'>
  readonly totalMs: number
  /** Wall clock when the steps began, in microseconds since 1970, by which reports of several ranks are laid side by side. */
  readonly startedUs: number
  readonly steps: StepTimes
  readonly stages: StageTimes
  /**
   * [stage, bucket, start, end] per span in milliseconds since the pipeline step began; stage 0 H2D, 1 broadcast, 2 reload, 3 pull. A reload
   * lasts from handing the bucket over to the worker's answer, so it may begin while an earlier one is still under way.
   */
  readonly spans: Float64Array
}
