import {
  CkptError,
  type HostMemory,
  type PipelineJob,
  type PipelineRun,
  type StagedContext,
  type StagedResult,
} from '@ckpt/contract'
import { onAbort } from '@ckpt/utils'

/** Input of a strategy to the pipeline besides the plan. */
export interface PipelineParts extends Pick<PipelineJob, 'copies' | 'sources' | 'arrivals'> {
  /** Rank that copies each bucket into device memory. */
  readonly bringer: Uint32Array
  /** Called when the pipeline has begun, before any other of these functions. */
  readonly onBegin?: (run: PipelineRun) => void
  /** Called when all of a bucket is in this rank's ring: its source is not needed any more. */
  readonly onBucket?: (bucket: number) => void
}

/**
 * Runs the plan's pipeline on this rank, followed by the engine worker.
 *
 * H2D and broadcast run in the device's native executor. This code handles one event per bucket: it hands the bucket to the
 * worker, and releases its ring bytes when the worker has answered. Several buckets are queued at the worker, so it is never
 * idle while the ring holds more.
 *
 * @throws CkptError of the first failure; the run is over then.
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
      // Counts only the tensors, like the plan's total: a bucket also holds padding between them.
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

/** Returns the error of a source that differs from what was registered: it names the file, which a worker's digest cannot. */
function changeOf(sources: readonly HostMemory[]): CkptError | undefined {
  try {
    for (const source of sources) source.assertIntact?.()
    return undefined
  } catch (error) {
    return CkptError.from(error, 'MEMORY_CHANGED')
  }
}
