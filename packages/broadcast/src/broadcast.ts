import type { StagedWay, UpdateStrategy } from '@ckpt/contract'
import { copiesFor, planBroadcast, planWithin } from '@ckpt/planner'
import { noCopies, pullBuckets, runPipeline, StagedAttempt } from '@ckpt/staging'

/**
 * Moves every bucket from its owner into the rings of all ranks. Ranks whose device needs memory that not all of them share do
 * that among those who do: buckets of other ranks are pulled, once for each group.
 */
export const broadcastBuckets: StagedWay = {
  name: 'broadcast',
  plan(manifest, rank, options) {
    const { ranks = [] } = options
    if (ranks.length > 0 && ranks.length < manifest.ranks.length) {
      const plan = planWithin(manifest, { ...options, ranks })
      return { plan, copies: noCopies(plan.buckets.count) }
    }
    const plan = planBroadcast(manifest, options)
    return { plan, copies: copiesFor(plan, manifest, rank) }
  },
  run(context) {
    const { plan, copies, manifest, segments } = context
    if (plan.ranks.length < manifest.ranks.length) return pullBuckets(context, { holds: true })
    return runPipeline(context, { bringer: plan.buckets.owner, copies, sources: segments })
  },
}

/** The broadcast strategy: moves every bucket to every rank of the plan, through each rank's ring, into its engine worker. */
export function broadcast(): UpdateStrategy {
  return {
    name: 'broadcast',
    // What ranks of another run hold is pulled: they take no part.
    begin: (context) => Promise.resolve(new StagedAttempt(context, context.joining ? context.staged : broadcastBuckets)),
  }
}
