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
  /** Bytes of the checkpoint's tensors, all of which this rank's worker was given. */
  readonly bytes: number
  readonly tensors: number
  readonly buckets: number
  readonly ringBytes: number
  readonly bucketBytes: number
  /** Whether every tensor carried a digest that the worker compared before loading it. */
  readonly verified: boolean
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
