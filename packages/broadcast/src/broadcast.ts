import type { StagedWay, UpdateStrategy } from '@ckpt/contract'
import { copiesFor, planBroadcast } from '@ckpt/planner'
import { runPipeline, StagedAttempt } from '@ckpt/staging'

/** Moves every bucket from its owner into the rings of all ranks. */
export const broadcastBuckets: StagedWay = {
  name: 'broadcast',
  plan(manifest, rank, options) {
    const plan = planBroadcast(manifest, options)
    return { plan, copies: copiesFor(plan, manifest, rank) }
  },
  run(context) {
    const { plan, copies, segments } = context
    return runPipeline(context, { bringer: plan.buckets.owner, copies, sources: segments })
  },
}

/** The broadcast strategy: moves every bucket to every rank of the plan, through each rank's ring, into its engine worker. */
export function broadcast(): UpdateStrategy {
  return { name: 'broadcast', begin: (context) => Promise.resolve(new StagedAttempt(context, broadcastBuckets)) }
}
