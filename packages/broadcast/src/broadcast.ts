import type { Strategy, StrategyContext, StrategyResult } from '@ckpt/contract'
import { runPipeline } from './run-pipeline.ts'

/** The broadcast strategy: every bucket to every rank of the plan, through each rank's ring, into its engine worker. */
export function broadcast(): Strategy {
  return { name: 'broadcast', execute }
}

function execute(context: StrategyContext): Promise<StrategyResult> {
  const { plan, copies, segments } = context
  return runPipeline(context, { bringer: plan.buckets.owner, copies, sources: segments })
}
