import { CkptError, type Manifest, type StagedContext, type StagedResult, type TransferPlan } from '@ckpt/contract'
import { pullOf } from '@ckpt/planner'
import { runPipeline } from '../run-pipeline.ts'
import { copyRuns } from './copy-runs.ts'
import { bounceLanding, keptLanding, ringLanding, type KeptPlaces, type Landing } from './landing.ts'
import { Puller } from './puller.ts'
import { Sources } from './sources.ts'
import { isReceiver, numberOf } from './receiver-number.ts'
import { Spread } from './spread.ts'

/**
 * Time in milliseconds without bytes after which a source is replaced; at most half the update's own deadline, so that a
 * replacement can start before the pipeline gives up. Machines that lose power, and links that drop everything, close no
 * connection.
 */
const SILENT_MS = 30_000

/** Options for a receiver's reads. */
export interface PullOptions {
  /** This rank is one of the manifest: what it holds itself is copied. */
  readonly holds: boolean
  /** Returns the places of pulled buckets whose bytes stay. */
  readonly keep?: (plan: TransferPlan, manifest: Manifest, own: readonly number[]) => Promise<KeptPlaces>
}

/**
 * Pulls this receiver's buckets out of other ranks' memory, into the rings of all receivers.
 *
 * Bytes arrive in the ring itself if it is in host memory. Otherwise they arrive in a few pinned buffers (or, if they are kept,
 * in the memory that stays), from which the device copies them while the next ones arrive. A lost source is replaced by other
 * ranks that hold the same tensors. Receivers on many hosts read from each other, too (see {@link Spread}).
 *
 * @throws CkptError `METAS_STALE` or `PEER_LOST` naming the tensors without a remaining source, or the error of the first other
 * failure.
 */
export async function pullBuckets(context: StagedContext, { holds, keep }: PullOptions): Promise<StagedResult> {
  const { plan, manifest, ring, rank, host, timeoutMs, signal } = context
  const reach = await context.reach()
  if (reach.endpoints.length === 0) {
    throw new CkptError('UNSUPPORTED', 'this rank has no one-sided endpoint to pull with', { fields: { rank } })
  }
  const { receiver, owner } = plan.buckets
  const own = Array.from({ length: plan.buckets.count }, (_, bucket) => bucket).filter((bucket) => receiver[bucket] === rank)
  // Reads do not stop by themselves if the pipeline has failed for a different reason.
  const stopped = new AbortController()
  let spread: Spread | undefined
  const sources = new Sources({
    checkpoint: manifest.checkpoint,
    reach: {
      ...reach,
      connect: (one, options) => (isReceiver(one) ? spread!.connect(one, options) : reach.connect(one, options)),
    },
    pullOf: (bucket, lost) => {
      const pull = pullOf(plan, manifest, bucket, lost)
      return spread?.pullOf(bucket, pull, lost) ?? pull
    },
    gathered: holds,
    own: holds
      ? { rank, copy: (runs, place) => copyRuns(host, context.segments, runs, place) }
      : { rank: numberOf(rank), copy: (runs, place) => spread!.copy(runs, place) },
    timeoutMs: Math.min(timeoutMs / 2, SILENT_MS),
    signal: AbortSignal.any([signal, stopped.signal]),
  })
  let landing: Landing | undefined
  let puller: Puller | undefined
  try {
    for (const bucket of own) sources.connect(owner[bucket]!)
    if (!holds) spread = await Spread.begin(context, own, sources)
    landing = keep
      ? keptLanding(context, await keep(plan, manifest, own), own)
      : ring.place
        ? ringLanding(context, ring.place)
        : await bounceLanding(context, host, own)
    const pulling = (puller = new Puller(own, landing, sources))
    const result = await runPipeline(context, {
      bringer: receiver,
      copies: landing.copies,
      sources: landing.sources,
      arrivals: landing.into === 'ring' ? { into: 'ring', onWritable: () => pulling.writable() } : { into: 'sources' },
      onBegin: (run) => pulling.begin(run),
      onBucket: (bucket) => {
        if (receiver[bucket] === rank) pulling.delivered()
      },
    })
    await spread?.over()
    return { ...result, pull: pulling.stats(result.startedAt) }
  } finally {
    stopped.abort(new CkptError('ABORTED', 'the pipeline is over'))
    // No byte may arrive in ring or buffers once they are released.
    await puller?.stop()
    await sources.close()
    await spread?.close()
    landing?.close()
  }
}
