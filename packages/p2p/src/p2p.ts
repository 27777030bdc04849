import { runPipeline } from '@ckpt/broadcast'
import { CkptError, type StagedStrategy, type StrategyContext, type StrategyResult } from '@ckpt/contract'
import { bounceLanding, keptLanding, ringLanding } from './landing.ts'
import { Puller } from './puller.ts'
import { Sources } from './sources.ts'

/** Who receives. */
export interface P2pOptions {
  /** The ranks that receive, and that call `update`: all others go on with what they do. */
  readonly ranks: readonly number[]
  /**
   * Keep what is pulled in host memory, registered under the checkpoint's name (default false): after `gatherMetas` the receivers are sources
   * of it themselves, together of all of it. It takes the checkpoint's size of memory, divided among them.
   */
  readonly keep?: boolean
}

/**
 * The p2p strategy: the given ranks alone are updated. Each bucket is pulled once, by one of them, out of the host memory of a rank
 * that holds it, and shared among the receivers over their collective. Those that are read from take no part: a native thread of theirs
 * serves the bytes, whatever they are doing.
 *
 * Bytes land in the ring itself where that lies in host memory, else in a few pinned buffers (or, where they are kept, in the memory in
 * which they stay) from where the device copies them while the next ones arrive. A source that is lost is replaced by other ranks that hold the same tensors.
 *
 * @throws CkptError `INVALID_ARGUMENT` when `ranks` is empty.
 */
export function p2p({ ranks, keep = false }: P2pOptions): StagedStrategy {
  if (ranks.length === 0) {
    throw new CkptError('INVALID_ARGUMENT', 'p2p needs at least one rank that receives', { fields: { field: 'ranks' } })
  }
  return { name: 'p2p', ranks: [...new Set(ranks)].sort((a, b) => a - b), keep, execute }
}

async function execute(context: StrategyContext): Promise<StrategyResult> {
  const { plan, pull, ring, rank, timeoutMs, signal } = context
  if (pull === undefined) {
    throw new CkptError('UNSUPPORTED', 'this rank has no one-sided endpoint to pull with', { fields: { rank } })
  }
  const { receiver, owner } = plan.buckets
  const own = Array.from({ length: plan.buckets.count }, (_, bucket) => bucket).filter((bucket) => receiver[bucket] === rank)
  // Reads are stopped by themselves when the pipeline has failed for another reason.
  const stopped = new AbortController()
  const sources = new Sources(pull, timeoutMs, AbortSignal.any([signal, stopped.signal]))
  for (const bucket of own) sources.connect(owner[bucket]!)
  const landing = pull.keep
    ? keptLanding(context, await pull.keep(own), own)
    : ring.place
      ? ringLanding(context, ring.place)
      : await bounceLanding(context, pull, own)
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
