import type { Epoch } from '@ckpt/contract'
import type { UpdateReport } from '../report.ts'
import type { Verification } from '../verify/verification.ts'
import type { Outcome } from './staged-work.ts'
import type { UpdateRun } from './run.ts'

/** What `update` resolves to. */
export function makeReport(
  run: UpdateRun,
  epoch: Epoch,
  outcome: Outcome,
  verification: Verification,
  startedAt: number,
  steps: UpdateReport['steps'],
): UpdateReport {
  const { staged, planned, direct, stages } = outcome
  const plan = planned?.plan
  const whole = outcome.whole?.plan
  const isDirect = stages !== undefined
  // The ranks wait for each other between the step's begin and the pipeline's.
  const lead = startedAt + steps.beginMs + steps.planMs + steps.attachMs
  const spans: number[] = []
  const add = (stage: number, index: number, from: number, to: number, zero: number) =>
    spans.push(stage, index, from + zero - lead, to + zero - lead)
  if (staged) {
    const { stats, reloadSpans } = staged
    for (let i = 0; i < stats.spans.length; i += 4) {
      add(stats.spans[i]!, stats.spans[i + 1]!, stats.spans[i + 2]!, stats.spans[i + 3]!, staged.startedAt)
    }
    for (let i = 0; i < reloadSpans.length; i += 3) {
      add(2, reloadSpans[i]!, reloadSpans[i + 1]!, reloadSpans[i + 2]!, staged.startedAt)
    }
    const pulls = staged.pull?.spans ?? []
    for (let i = 0; i < pulls.length; i += 3) add(3, pulls[i]!, pulls[i + 1]!, pulls[i + 2]!, staged.startedAt)
  }
  const written = outcome.spans ?? new Float64Array(0)
  for (let i = 0; i < written.length; i += 4) {
    add(written[i]!, written[i + 1]!, written[i + 2]!, written[i + 3]!, outcome.startedAt)
  }
  const { h2dBytes = 0, broadcastBytes = 0 } = staged?.stats ?? {}
  return {
    checkpoint: run.manifest.checkpoint,
    version: run.version,
    epoch: epoch.id,
    rank: run.rendezvous.rank,
    strategy: isDirect ? 'direct' : run.strategy.name === 'direct' ? run.staged.name : run.strategy.name,
    mode: plan?.mode ?? 'pipelined',
    modeReason: plan?.modeReason ?? 'nothing passes through a ring',
    ...(staged?.stats.order && { order: staged.stats.order }),
    ...(direct && { direct }),
    ...(staged?.pull && {
      pull: { bytes: staged.pull.bytes, busyMs: staged.pull.busyMs, sources: staged.pull.sources, lost: staged.pull.lost },
    }),
    bytes: outcome.bytes,
    ...(plan &&
      whole &&
      plan !== whole && {
        kept: { tensors: whole.items.count - plan.items.count, bytes: whole.totalBytes - plan.totalBytes },
      }),
    tensors: outcome.tensors,
    buckets: plan?.buckets.count ?? 0,
    ringBytes: plan?.ringBytes ?? 0,
    bucketBytes: plan?.bucketBytes ?? 0,
    verified: verification.level,
    verification,
    digest: run.manifest.digest,
    h2dBytes: h2dBytes + (stages?.h2dBytes ?? 0),
    broadcastBytes: broadcastBytes + (direct?.bytes?.forwarded ?? 0),
    startedUs: Math.round((performance.timeOrigin + startedAt) * 1000),
    totalMs: steps.beginMs + steps.planMs + steps.attachMs + steps.pipelineMs + steps.commitMs,
    steps,
    stages: {
      h2dMs: (staged?.stats.h2dMs ?? 0) + (stages?.h2dMs ?? 0),
      broadcastMs: (staged?.stats.broadcastMs ?? 0) + (stages?.forwardMs ?? 0),
      reloadMs: staged?.reloadMs ?? 0,
      idleMs: isDirect ? 0 : (staged?.stats.idleMs ?? 0),
    },
    spans: Float64Array.from(spans),
  }
}
