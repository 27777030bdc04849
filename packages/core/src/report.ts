import type { UpdateOutcome, VerificationLevel } from '@ckpt/contract'
import type { Verification } from './verify/verification.ts'

/** Steps of an update, in milliseconds; they run one after another. */
export interface StepTimes {
  /** Epoch, engine readiness and the ranks' first exchange. */
  readonly beginMs: number
  readonly planMs: number
  /** Ring, collective, and the worker's attach. */
  readonly attachMs: number
  readonly pipelineMs: number
  /** Release, the ranks' vote, commit. */
  readonly commitMs: number
}

/** Result of `update`. */
export interface UpdateReport extends Omit<UpdateOutcome, 'spans'> {
  readonly checkpoint: string
  /** Version that the engine serves now. */
  readonly version: string
  readonly epoch: number
  readonly rank: number
  /** Number of attempts, if more than one (`retry`). */
  readonly attempts?: number
  /** How the bytes reached the engine workers, and why not directly, in one line. */
  readonly how: string
  /** Extent of the verification; only `bytes` means that the serving parameters were compared with the registered bytes. */
  readonly verified: VerificationLevel
  /** Comparisons made, and the reason for not making more. */
  readonly verification: Verification
  /** Digest of the applied manifest. */
  readonly digest: string
  readonly totalMs: number
  /** Wall clock at the start of the steps, in microseconds since 1970, which aligns reports of several ranks. */
  readonly startedUs: number
  readonly steps: StepTimes
  /**
   * [stage, bucket, start, end] per span in milliseconds since the pipeline step began; stage 0 H2D, 1 broadcast, 2 reload, 3
   * pull. A reload lasts from the handover of the bucket to the worker's answer, so it may begin while an earlier one is still
   * running.
   */
  readonly spans: Float64Array
}
