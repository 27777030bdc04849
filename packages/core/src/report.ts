import type { UpdateOutcome, VerificationLevel } from '@ckpt/contract'
import type { Verification } from './verify/verification.ts'

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
export interface UpdateReport extends Omit<UpdateOutcome, 'spans'> {
  readonly checkpoint: string
  /** What the engine serves now. */
  readonly version: string
  readonly epoch: number
  readonly rank: number
  /** Attempts that it took, where it took more than one (`retry`). */
  readonly attempts?: number
  /** How far the update was verified; only `bytes` means that what serves was compared with what was registered. */
  readonly verified: VerificationLevel
  /** What was compared, and why no more. */
  readonly verification: Verification
  /** Digest of the manifest that was applied. */
  readonly digest: string
  readonly totalMs: number
  /** Wall clock when the steps began, in microseconds since 1970, by which reports of several ranks are laid side by side. */
  readonly startedUs: number
  readonly steps: StepTimes
  /**
   * [stage, bucket, start, end] per span in milliseconds since the pipeline step began; stage 0 H2D, 1 broadcast, 2 reload, 3 pull. A reload
   * lasts from handing the bucket over to the worker's answer, so it may begin while an earlier one is still under way.
   */
  readonly spans: Float64Array
}
