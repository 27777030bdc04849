import type { WorkerEndpoint, WorkerState } from '@ckpt/contract'
import type { Announcement } from './announcement.ts'
import type { UpdateRun } from './update-run.ts'

/** Creates this rank's announcement. */
export async function ownAnnouncement(
  run: UpdateRun,
  endpoint: WorkerEndpoint,
  workerState: WorkerState | undefined,
): Promise<Announcement> {
  const { held, keep, ring, strategy, verify } = run
  const { name, options } = strategy
  return {
    terms: {
      checkpoint: held.manifest.checkpoint,
      manifestDigest: held.manifest.digest,
      strategy: name,
      version: run.version,
      verify: `${verify.level}${verify.record ? ', recorded' : ''}`,
      bucketBytes: ring.bucketBytes,
      maxBucketBytes: ring.maxBucketBytes,
      chunkBytes: ring.chunkBytes,
      recovery: run.recovery,
      ...options,
    },
    workerState: workerState ?? null,
    strategy: strategy.announce?.(keep.strategies) ?? null,
    generation: keep.resources.generation,
    token: run.worker.token,
    ringLimit: ring.limitBytes,
    endpoint,
    near: await keep.nearness.whereabouts(),
  }
}
