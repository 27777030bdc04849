import type { Epoch, OutcomeSpans, UpdateOutcome } from '@ckpt/contract'
import type { StepTimes, UpdateReport } from '../report.ts'
import type { Verification } from '../verify/verification.ts'
import { howOf } from './how.ts'
import type { UpdateRun } from './update-run.ts'

/** Creates the result of `update`. `startedAt`: `performance.now()` when the first step began. */
export function makeReport(
  { held, rendezvous, version }: UpdateRun,
  epoch: Epoch,
  { spans, ...outcome }: UpdateOutcome,
  verification: Verification,
  startedAt: number,
  steps: StepTimes,
): UpdateReport {
  const { beginMs, planMs, attachMs, pipelineMs, commitMs } = steps
  return {
    checkpoint: held.manifest.checkpoint,
    version,
    epoch: epoch.id,
    rank: rendezvous.rank,
    ...outcome,
    how: howOf(outcome),
    verified: verification.level,
    verification,
    digest: held.manifest.digest,
    startedUs: Math.round((performance.timeOrigin + startedAt) * 1000),
    totalMs: beginMs + planMs + attachMs + pipelineMs + commitMs,
    steps,
    // The ranks wait for each other between the beginning of the step and that of the pipeline.
    spans: joinSpans(spans, startedAt + beginMs + planMs + attachMs),
  }
}

/** Merges all spans, with times since `zero`. */
function joinSpans(parts: readonly OutcomeSpans[], zero: number): Float64Array {
  const all = new Float64Array(parts.reduce((sum, { rows }) => sum + rows.length, 0))
  let at = 0
  for (const { rows, zero: own } of parts) {
    const shift = own - zero
    for (let i = 0; i < rows.length; i += 4, at += 4) {
      all[at] = rows[i]!
      all[at + 1] = rows[i + 1]!
      all[at + 2] = rows[i + 2]! + shift
      all[at + 3] = rows[i + 3]! + shift
    }
  }
  return all
}
