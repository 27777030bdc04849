import type { Manifest, PlannedUpdate, Ring, StagedContext, StagedWay, UpdateContext } from '@ckpt/contract'
import { bucketTensors } from '@ckpt/planner'
import { PlanCache } from './plan-cache.ts'

/** Plans all of a manifest's tensors, for a ring of at most `ringBytes`. */
export function planStaged(
  { kept, rank, ring }: UpdateContext,
  way: StagedWay,
  manifest: Manifest,
  ringBytes = ring.limitBytes,
): PlannedUpdate {
  return kept.of(PlanCache).plan(way, manifest, rank, {
    ranks: ring.members,
    ringBytes,
    ...(ring.bucketBytes !== null && { preferredBucketBytes: ring.bucketBytes }),
    maxBucketBytes: ring.maxBucketBytes,
    chunkBytes: ring.chunkBytes,
  })
}

/**
 * Creates the context of a plan. `attach` is called with the ring as soon as it exists. The worker gets digests to compare for
 * all tensors, or for those in `compared`.
 */
export async function stagedContext(
  context: UpdateContext,
  manifest: Manifest,
  planned: PlannedUpdate,
  attach: (ring: Ring) => void,
  compared?: ReadonlySet<string>,
): Promise<StagedContext> {
  const { rank, segments, timeoutMs, signal, loading, onProgress } = context
  const ring = await context.ring.make(planned.plan.ringBytes)
  // The first buckets move while the worker is still mapping the ring; loading them waits for that.
  attach(ring)
  const collective = await context.ring.join()
  return {
    ...planned,
    rank,
    manifest,
    tensorsOf: (bucket) => {
      const tensors = bucketTensors(planned.plan, manifest, bucket)
      if (context.verify.level !== 'none' && compared === undefined) return tensors
      return tensors.map(({ digest, ...tensor }) =>
        digest !== undefined && compared?.has(tensor.name) ? { ...tensor, digest } : tensor,
      )
    },
    ring,
    collective,
    session: loading,
    segments,
    host: context.device.host,
    reach: context.reach,
    ...(context.spread && { spread: context.spread }),
    timeoutMs,
    signal,
    ...(onProgress && { onProgress }),
  }
}
