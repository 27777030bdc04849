import { CkptError, type Host, type Reach, type StagedContext, type StagedResult } from '@ckpt/contract'
import { pullOf } from '@ckpt/planner'
import { runPipeline } from '@ckpt/staging'
import type { Keeper } from './keeper.ts'
import { bounceLanding, keptLanding, ringLanding } from './landing.ts'
import { Puller } from './puller.ts'
import { Sources } from './sources.ts'

/**
 * A source of which nothing comes for this long, in milliseconds, is replaced; at most for half the update's own deadline, so that another
 * one gets its turn before the pipeline gives up. Machines that lose power, and links that drop everything, close no connection.
 */
const SILENT_MS = 30_000

/** What a receiver pulls with. */
export interface PullOptions {
  readonly reach: Reach
  /** Makes memory that the device copies from. */
  readonly host: Host
  /** Keeps what is pulled. */
  readonly keeper?: Keeper
}

/**
 * Pulls this receiver's buckets out of other ranks' memory, into the rings of all receivers.
 *
 * Bytes land in the ring itself where that lies in host memory, else in a few pinned buffers (or, where they are kept, in the memory in
 * which they stay) from where the device copies them while the next ones arrive. A source that is lost is replaced by other ranks that hold
 * the same tensors.
 *
 * @throws CkptError `METAS_STALE` or `PEER_LOST` naming the tensors that no source is left for, or of whatever else failed first.
 */
export async function pullBuckets(context: StagedContext, { reach, host, keeper }: PullOptions): Promise<StagedResult> {
  const { plan, manifest, ring, rank, timeoutMs, signal } = context
  if (reach.endpoints.length === 0) {
    throw new CkptError('UNSUPPORTED', 'this rank has no one-sided endpoint to pull with', { fields: { rank } })
  }
  const { receiver, owner } = plan.buckets
  const own = Array.from({ length: plan.buckets.count }, (_, bucket) => bucket).filter((bucket) => receiver[bucket] === rank)
  // Reads are stopped by themselves when the pipeline has failed for another reason.
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
    // Nothing may land in ring or buffers once they are given back.
    await puller.stop()
    await sources.close()
    landing.close()
  }
}
