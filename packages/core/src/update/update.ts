import { join } from 'node:path'
import {
  CkptError,
  type Device,
  type EngineAdapter,
  type Epoch,
  type HostMemory,
  type Manifest,
  type PullContext,
  type Rendezvous,
  type Strategy,
  type StrategyResult,
} from '@ckpt/contract'
import { bucketTensors, pullOf } from '@ckpt/planner'
import { withDeadline } from '../deadline.ts'
import { tensorCount } from '../manifest.ts'
import type { UpdateReport } from '../report.ts'
import { WorkerSession } from '../worker-protocol/session.ts'
import { announce } from './begin.ts'
import type { PlanCache, PlannedUpdate } from './plan-cache.ts'
import type { UpdateResources } from './resources.ts'

/** Everything one update needs, resolved. */
export interface UpdateRun {
  readonly rendezvous: Rendezvous
  readonly device: Device
  readonly resources: UpdateResources
  readonly plans: PlanCache
  readonly engine: EngineAdapter
  readonly strategy: Strategy
  readonly manifest: Manifest
  readonly segments: readonly HostMemory[]
  /** What receivers pull with, in a p2p update; `joining`: they are not ranks of the manifest. */
  readonly pull?: Omit<PullContext, 'pullOf'> & { readonly joining: boolean }
  readonly socketDir: string
  readonly token: string
  readonly version: string
  readonly verify: boolean
  readonly ringLimit: number
  readonly bucketBytes: number | null
  readonly maxBucketBytes: number
  readonly chunkBytes: number
  readonly timeoutMs: number
  readonly signal: AbortSignal
  /** Tells the other ranks of a failure, once; resolves to the error to report. */
  readonly fail: (thrown: unknown) => Promise<CkptError>
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}

/** One update on one rank, inside `epoch`. The other ranks know of a failure (by `fail`) before the worker is told. */
export async function runUpdate(run: UpdateRun, epoch: Epoch): Promise<UpdateReport> {
  const { rendezvous, manifest, timeoutMs, signal } = run
  const { rank } = rendezvous
  const wait = { timeoutMs, signal, ...(run.strategy.ranks && { ranks: run.strategy.ranks }) }
  const startedAt = performance.now()
  const clock = stepClock(startedAt)

  await run.engine.ready({ rank, timeoutMs, signal })
  const address = `ipc://${join(run.socketDir, `worker-${rank}-${epoch.id}.sock`)}`
  const announcements = await announce(
    rendezvous,
    epoch,
    {
      checkpoint: manifest.checkpoint,
      manifestDigest: manifest.digest,
      strategy: run.strategy.name,
      version: run.version,
      verify: run.verify,
      bucketBytes: run.bucketBytes,
      maxBucketBytes: run.maxBucketBytes,
      chunkBytes: run.chunkBytes,
      generation: run.resources.generation,
      token: run.token,
      ringLimit: run.ringLimit,
      endpoint: { rank, deviceUuid: run.device.uuid, address },
    },
    wait,
  )
  const beginMs = clock()

  const ranks = announcements.map((one) => one.endpoint.rank)
  const planOptions = {
    ranks,
    ringBytes: Math.min(...announcements.map((one) => one.ringLimit)),
    ...(run.bucketBytes !== null && { preferredBucketBytes: run.bucketBytes }),
    maxBucketBytes: run.maxBucketBytes,
    chunkBytes: run.chunkBytes,
  }
  const { pull } = run
  const planned = pull ? run.plans.p2p(manifest, planOptions, pull.joining) : run.plans.broadcast(manifest, rank, planOptions)
  const planMs = clock()

  const token = announcements[0]!.token
  const session = await WorkerSession.bind({ rank, address, token, epoch: epoch.id, timeoutMs })
  const onAbort = () => session.fail(CkptError.from(signal.reason, 'ABORTED'))
  signal.addEventListener('abort', onAbort, { once: true })
  if (signal.aborted) onAbort()
  try {
    if (announcements.some((one) => one.generation !== run.resources.generation)) await run.resources.release()
    const endpoints = announcements.map((one) => one.endpoint)
    const call = await run.engine.start({ rank, endpoints, token, timeoutMs, signal })
    watchCall(call.finished, session, rank)
    const exchange = <T>(key: string, value: T) =>
      rendezvous.allGather(`collective/${key}`, value, { epoch: epoch.id, ...wait })
    const ring = await run.resources.ring(planned.plan.ringBytes)
    // The first buckets move while the worker still connects and maps the ring; loading them waits for that.
    void session.attach(ring.handle, { tensors: planned.plan.items.count, bytes: planned.plan.totalBytes }, signal)
    const collective = await run.resources.collective(ranks, rank, exchange, timeoutMs, signal)
    const attachMs = clock()

    const result = await run.strategy.execute({
      rank,
      plan: planned.plan,
      copies: planned.copies,
      tensorsOf: (bucket) => {
        const tensors = bucketTensors(planned.plan, manifest, bucket)
        return run.verify ? tensors : tensors.map(({ digest: _, ...tensor }) => tensor)
      },
      ring,
      collective,
      session,
      segments: run.segments,
      ...(pull && { pull: { ...pull, pullOf: (bucket, lost) => pullOf(planned.plan, manifest, bucket, lost) } }),
      timeoutMs,
      signal,
      ...(run.onProgress && { onProgress: run.onProgress }),
    })
    const pipelineMs = clock()

    await session.release()
    // Everybody's worker is prepared, or nobody commits: a rank that failed has aborted the epoch instead of voting.
    await rendezvous.allGather('update/prepared', rank, { epoch: epoch.id, ...wait })
    await session.commit(run.version)
    await rendezvous.allGather('update/committed', rank, { epoch: epoch.id, ...wait })
    await withDeadline(call.finished, { what: `the engine's call on rank ${rank}`, timeoutMs, signal })
    const commitMs = clock()
    return report(run, epoch, planned, result, startedAt, { beginMs, planMs, attachMs, pipelineMs, commitMs })
  } catch (thrown) {
    const error = await run.fail(thrown)
    await session.abort(error.message)
    throw error
  } finally {
    signal.removeEventListener('abort', onAbort)
    session.close()
  }
}

/**
 * A call that ends before the update does fails the session. The worker's own answer travels on another channel and says more, so
 * it gets a moment to arrive first.
 */
function watchCall(finished: Promise<void>, session: WorkerSession, rank: number): void {
  const failLater = (error: CkptError, milliseconds: number) => void setTimeout(() => session.fail(error), milliseconds).unref()
  finished.then(
    () =>
      failLater(
        new CkptError('ENGINE_PROTOCOL', `the engine of rank ${rank} ended its call early`, { fields: { rank } }),
        1000,
      ),
    (error: unknown) => failLater(CkptError.from(error, 'ENGINE_WORKER_LOST', undefined, { rank }), 100),
  )
}

function stepClock(last: number): () => number {
  return () => {
    const now = performance.now()
    const elapsed = now - last
    last = now
    return elapsed
  }
}

function report(
  run: UpdateRun,
  epoch: Epoch,
  { plan }: PlannedUpdate,
  result: StrategyResult,
  startedAt: number,
  steps: UpdateReport['steps'],
): UpdateReport {
  const { stats, reloadMs, reloadSpans } = result
  const pullSpans = result.pull?.spans ?? new Float64Array(0)
  const spans = new Float64Array(stats.spans.length + ((reloadSpans.length + pullSpans.length) / 3) * 4)
  spans.set(stats.spans)
  let at = stats.spans.length
  for (const [stage, list] of [
    [2, reloadSpans],
    [3, pullSpans],
  ] as const) {
    for (let i = 0; i < list.length; i += 3, at += 4) spans.set([stage, list[i]!, list[i + 1]!, list[i + 2]!], at)
  }
  // The ranks wait for each other between the step's begin and the pipeline's.
  const lead = result.startedAt - (startedAt + steps.beginMs + steps.planMs + steps.attachMs)
  for (let i = 0; i < spans.length; i += 4) {
    spans[i + 2]! += lead
    spans[i + 3]! += lead
  }
  return {
    checkpoint: run.manifest.checkpoint,
    version: run.version,
    epoch: epoch.id,
    rank: run.rendezvous.rank,
    strategy: run.strategy.name,
    mode: plan.mode,
    modeReason: plan.modeReason,
    ...(stats.order && { order: stats.order }),
    bytes: plan.totalBytes,
    tensors: tensorCount(run.manifest),
    buckets: plan.buckets.count,
    ringBytes: plan.ringBytes,
    bucketBytes: plan.bucketBytes,
    verified: run.verify,
    digest: run.manifest.digest,
    h2dBytes: stats.h2dBytes,
    broadcastBytes: stats.broadcastBytes,
    startedUs: Math.round((performance.timeOrigin + startedAt) * 1000),
    totalMs: steps.beginMs + steps.planMs + steps.attachMs + steps.pipelineMs + steps.commitMs,
    steps,
    ...(result.pull && {
      pull: { bytes: result.pull.bytes, busyMs: result.pull.busyMs, sources: result.pull.sources, lost: result.pull.lost },
    }),
    stages: { h2dMs: stats.h2dMs, broadcastMs: stats.broadcastMs, reloadMs, idleMs: stats.idleMs },
    spans,
  }
}
