import { CkptError, type Host, type Reach, type StagedContext, type StagedResult } from '@ckpt/contract'
import { pullOf } from '@ckpt/planner'
import { runPipeline } from '@ckpt/staging'
import type { Keeper } from './keeper.ts'
import { bounceLanding, keptLanding, ringLanding } from './landing.ts'
import { Puller } from './puller.ts'
import { Sources } from './sources.ts'

/**
 * Time in milliseconds without bytes after which a source is replaced; at most half the update's own deadline, so that a
 * replacement can start before the pipeline gives up. Machines that lose power, and links that drop everything, close no
 * connection.
 */
const SILENT_MS = 30_000

/** Options for a receiver's reads. */
export interface PullOptions {
  readonly reach: Reach
  /** Creates memory that the device copies from. */
  readonly host: Host
  /** Keeps the pulled bytes. */
  readonly keeper?: Keeper
}

/**
 * Pulls this receiver's buckets out of other ranks' memory, into the rings of all receivers.
 *
 * Bytes arrive in the ring itself if it is in host memory. Otherwise they arrive in a few pinned buffers (or, if they are kept,
 * in the memory that stays), from which the device copies them while the next ones arrive. A lost source is replaced by other
 * ranks that hold the same tensors.
 *
 * @throws CkptError `METAS_STALE` or `PEER_LOST` naming the tensors without a remaining source, or the error of the first other
 * failure.
 */
export async function pullBuckets(context: StagedContext, { reach, host, keeper }: PullOptions): Promise<StagedResult> {
  const { plan, manifest, ring, rank, timeoutMs, signal } = context
  if (reach.endpoints.length === 0) {
    throw new CkptError('UNSUPPORTED', 'this rank has no one-sided endpoint to pull with', { fields: { rank } })
  }
  const { receiver, owner } = plan.buckets
  const own = Array.from({ length: plan.buckets.count }, (_, bucket) => bucket).filter((bucket) => receiver[bucket] === rank)
  // Reads do not stop by themselves if the pipeline has failed for a different reason.
  const stopped = new AbortController()
  const sources = new Sources({
    checkpoint: manifest.checkpoint,
    reach,
    pullOf: (bucket, lost) => pullOf(plan, manifest, bucket, lost),
    timeoutMs: Math.min(timeoutMs / 2, SILENT_MS),
    signal: AbortSignal.any([signal, stopped.signal]),
  })
  for (const bucket of own) sources.connect(owner[bucket]!)
  const landing = keeper
    ? keptLanding(context, await keeper.place(plan, manifest, own), own)
    : ring.place
      ? ringLanding(context, ring.place)
      : await bounceLanding(context, host, own)
  const puller = new Puller(own, landing, sources)
  try {
    const result = await runPipeline(context, {
      bringer: receiver,
      copies: landing.copies,
      sources: landing.sources,
      arrivals: landing.into === 'ring' ? { into: 'ring', onWritable: () => puller.writable() } : { into: 'sources' },
      onBegin: (run) => puller.begin(run),
      onBucket: (bucket) => {
        if (receiver[bucket] === rank) puller.delivered()
      },
    })
    return { ...result, pull: puller.stats(result.startedAt) }
  } finally {
    stopped.abort(new CkptError('ABORTED', 'the pipeline is over'))
    // No byte may arrive in ring or buffers once they are released.
    await puller.stop()
    await sources.close()
    landing.close()
  }
}
