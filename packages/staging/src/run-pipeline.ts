import {
  CkptError,
  type HostMemory,
  type PipelineJob,
  type PipelineRun,
  type StagedContext,
  type StagedResult,
} from '@ckpt/contract'
import { onAbort } from '@ckpt/utils'

/** What a strategy gives the pipeline beyond the plan. */
export interface PipelineParts extends Pick<PipelineJob, 'copies' | 'sources' | 'arrivals'> {
  /** Rank that brings each bucket into device memory. */
  readonly bringer: Uint32Array
  /** The pipeline has begun; called before any other function of these. */
  readonly onBegin?: (run: PipelineRun) => void
  /** All of a bucket is in this rank's ring: whatever it came from is not needed any more. */
  readonly onBucket?: (bucket: number) => void
}

/**
 * Runs the plan's pipeline on this rank, and the engine worker behind it.
 *
 * H2D and broadcast run in the device's native executor; what happens here is one event a bucket: hand it to the worker, and
 * give its ring bytes back when the worker has answered. Several buckets are with the worker at a time, so its queue is never
 * empty while the ring holds more.
 *
 * @throws CkptError of whatever failed first; the run is over then.
 */
export async function runPipeline(context: StagedContext, parts: PipelineParts): Promise<StagedResult> {
  const { plan, session, signal } = context
  signal.throwIfAborted()
  const position = new Map(plan.ranks.map((rank, index) => [rank, index]))
  const reloadSpans = new Float64Array(plan.buckets.count * 3)
  let reloadMs = 0
  let loadedBytes = 0
  const load = async (bucket: number): Promise<void> => {
    const from = performance.now()
    try {
      const tensors = context.tensorsOf(bucket)
      const result = await session.load(bucket, tensors)
      reloadMs += result.reloadMs
      reloadSpans.set([bucket, from, performance.now()], bucket * 3)
      // Of the tensors alone, as the plan's total: a bucket holds padding between them too.
      for (const { bytes } of tensors) loadedBytes += bytes
      const run = await begun
      run.release(bucket)
      context.onProgress?.(loadedBytes, plan.totalBytes)
    } catch (error) {
      const failure =
        changeOf(parts.sources) ?? CkptError.from(error, 'UPDATE_FAILED', `loading bucket ${bucket}`, { rank: context.rank })
      await begun.then(
        (run) => run.abort(failure),
        () => undefined, // never begun: its own error is thrown below
      )
    }
  }

  const begun = context.collective.run({
    ring: context.ring,
    buckets: { ...plan.buckets, owner: parts.bringer.map((rank) => position.get(rank)!) },
    copies: parts.copies,
    sources: parts.sources,
    ...(parts.arrivals && { arrivals: parts.arrivals }),
    chunkBytes: plan.chunkBytes,
    mode: plan.mode,
    timeoutMs: context.timeoutMs,
    onBucket: (bucket) => {
      parts.onBucket?.(bucket)
      void load(bucket)
    },
  })
  const running = await begun
  const stopListening = onAbort(signal, () => running.abort(CkptError.from(signal.reason, 'ABORTED')))
  try {
    parts.onBegin?.(running)
    const stats = await running.finished
    const changed = changeOf(parts.sources)
    if (changed !== undefined) throw changed
    const { startedAt } = running
    const sinceStart = reloadSpans.map((value, index) => (index % 3 === 0 ? value : value - startedAt))
    return { stats, reloadMs, startedAt, reloadSpans: sinceStart }
  } finally {
    stopListening()
  }
}

/** A source that is not what was registered any more, by its error: it names the file, which a worker's digest cannot. */
function changeOf(sources: readonly HostMemory[]): CkptError | undefined {
  try {
    for (const source of sources) source.assertIntact?.()
    return undefined
  } catch (error) {
    return CkptError.from(error, 'MEMORY_CHANGED')
  }
}
