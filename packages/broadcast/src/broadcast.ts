import { CkptError, type StagedStrategy, type StrategyContext, type StrategyResult } from '@ckpt/contract'

/**
 * The broadcast strategy: every bucket to every rank of the plan, through each rank's ring, into its engine worker.
 *
 * H2D and broadcast run in the device's native executor; what happens here is one event a bucket: hand it to the worker, and
 * give its ring bytes back when the worker has answered. Several buckets are with the worker at a time, so its queue is never
 * empty while the ring holds more.
 */
export function broadcast(): StagedStrategy {
  return { name: 'broadcast', execute }
}

async function execute(context: StrategyContext): Promise<StrategyResult> {
  const { plan, session, signal } = context
  signal.throwIfAborted()
  const position = new Map(plan.ranks.map((rank, index) => [rank, index]))
  const reloadSpans = new Float64Array(plan.buckets.count * 3)
  let reloadMs = 0
  let loadedBytes = 0
  const load = async (bucket: number): Promise<void> => {
    const from = performance.now()
    try {
      const result = await session.load(bucket, context.tensorsOf(bucket))
      reloadMs += result.reloadMs
      reloadSpans.set([bucket, from, performance.now()], bucket * 3)
      loadedBytes += plan.buckets.bytes[bucket]!
      const run = await begun
      run.release(bucket)
      context.onProgress?.(loadedBytes, plan.totalBytes)
    } catch (error) {
      const failure = CkptError.from(error, 'UPDATE_FAILED', `loading bucket ${bucket}`, { rank: context.rank })
      await begun.then(
        (run) => run.abort(failure),
        () => undefined, // never begun: its own error is thrown below
      )
    }
  }

  const begun = context.collective.run({
    ring: context.ring,
    buckets: { ...plan.buckets, owner: plan.buckets.owner.map((rank) => position.get(rank)!) },
    copies: context.copies,
    sources: context.segments,
    chunkBytes: plan.chunkBytes,
    mode: plan.mode,
    timeoutMs: context.timeoutMs,
    onBucket: (bucket) => void load(bucket),
  })
  const running = await begun
  const onAbort = () => running.abort(CkptError.from(signal.reason, 'ABORTED'))
  signal.addEventListener('abort', onAbort, { once: true })
  if (signal.aborted) onAbort()
  try {
    const stats = await running.finished
    const { startedAt } = running
    const sinceStart = reloadSpans.map((value, index) => (index % 3 === 0 ? value : value - startedAt))
    return { stats, reloadMs, startedAt, reloadSpans: sinceStart }
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}
