import { CkptError, type Epoch } from '@ckpt/contract'
import { withDeadline } from '@ckpt/utils'
import { assertOneHost } from '../near/nearness.ts'
import type { UpdateReport } from '../report.ts'
import { announce } from './begin.ts'
import { decide } from './decide.ts'
import { DirectWork } from './direct-work.ts'
import { makeReport } from './make-report.ts'
import { namedWait } from './named-wait.ts'
import type { UpdateRun } from './run.ts'
import { openSession, type UpdateSession, workerAddress } from '@ckpt/worker-link'
import { StagedWork, type Staging } from './staged-work.ts'
import { verificationOf, type Verification } from '../verify/verification.ts'
import { vote } from './vote.ts'

/** How long a failed update waits for the engine's call to end, in milliseconds. */
const CALL_END_MS = 10_000

/** One update on one rank, inside `epoch`. The other ranks know of a failure (by `fail`) before the worker is told. */
export async function runUpdate(run: UpdateRun, epoch: Epoch): Promise<UpdateReport> {
  const { rendezvous, progress, timeoutMs, signal } = run
  const { rank } = rendezvous
  const wait = { timeoutMs, signal, ...(run.strategy.name === 'p2p' && run.strategy.ranks && { ranks: run.strategy.ranks }) }
  const startedAt = performance.now()
  const clock = stepClock(startedAt)

  const where = run.engine.where?.(rank)
  const ready = `the ${run.engine.name} engine of rank ${rank} to answer${where === undefined ? '' : ` on ${where}`} (is it running?)`
  const named = { rank, onWaiting: run.onWaiting }
  const state = await namedWait(run.engine.ready({ rank, timeoutMs, signal }), { what: ready, ...named })
  const deviceUuid = run.device.uuid
  const address = workerAddress(run.engine, { rank, deviceUuid, socketDir: run.socketDir, epoch: epoch.id })
  const announcements = await announce(
    rendezvous,
    epoch,
    {
      checkpoint: run.manifest.checkpoint,
      manifestDigest: run.manifest.digest,
      strategy: run.strategy.name,
      version: run.version,
      verify: `${run.verify}${run.recordToVerify ? ', recorded' : ''}`,
      bucketBytes: run.bucketBytes,
      maxBucketBytes: run.maxBucketBytes,
      chunkBytes: run.chunkBytes,
      recovery: run.recovery,
      workerState: state ?? null,
      prepared: run.strategy.name === 'direct' ? run.direct.ready : null,
      checkEvery: run.strategy.name === 'direct' ? run.strategy.checkEvery : 0,
      directs: run.direct.count,
      generation: run.resources.generation,
      token: run.token,
      ringLimit: run.ringLimit,
      endpoint: { rank, deviceUuid, address },
      near: await run.nearness.whereabouts(),
    },
    wait,
  )
  const beginMs = clock()

  const ranks = announcements.map((one) => one.endpoint.rank)
  run.onBegin(announcements)
  const options = { epoch: epoch.id, ...wait }
  const located = announcements.map(({ endpoint, near }) => ({ rank: endpoint.rank, near }))
  const groups = await run.nearness.groups(located, rank, (key, value) => rendezvous.allGather(key, value, options))
  // Before any engine is called. A direct update may need no ring.
  const needsOneHost = run.device.kind === 'host'
  if (needsOneHost && run.strategy.name !== 'direct') assertOneHost(groups)
  assertIntact(run)
  const token = announcements[0]!.token
  const session = await openSession(run.engine, {
    rank,
    address,
    token,
    epoch: epoch.id,
    timeoutMs,
    onGiven: () => (progress.touched = true),
    onWaiting: run.onWaiting,
  })
  const onAbort = () => session.fail(CkptError.from(signal.reason, 'ABORTED'))
  signal.addEventListener('abort', onAbort, { once: true })
  if (signal.aborted) onAbort()
  let ended: Promise<void> | undefined
  try {
    const endpoints = announcements.map((one) => one.endpoint)
    const announced = announcements.map(({ prepared, directs }) => ({ prepared, directs }))
    const starting = run.engine.start({ rank, endpoints, token, version: run.version, timeoutMs, signal })
    const call = await namedWait(starting, { what: `the ${run.engine.name} engine to begin the update`, ...named })
    ended = call.finished
    if (call.finished) watchCall(call.finished, session, rank)
    const decision = await decide(run, session, { endpoints, announced, groups }, options)
    const rings = !('prepared' in decision) || decision.prepared.plan.opaque.length > 0
    if (needsOneHost && rings) assertOneHost(groups)
    const staging: Staging = {
      run,
      epoch,
      session,
      ranks,
      fresh: announcements.some((one) => one.generation !== run.resources.generation),
      ringBytes: Math.min(...announcements.map((one) => one.ringLimit)),
      exchange: (key, value) => rendezvous.allGather(`collective/${key}`, value, options),
      wait,
    }
    const work = 'prepared' in decision ? new DirectWork(staging, decision) : new StagedWork(staging, decision)
    await work.plan()
    const planMs = clock()
    progress.phase = 'attach'
    void session.greeted(signal).then(
      ({ state }) => (progress.workerState = state),
      () => undefined, // the attach fails with it
    )
    await work.attach()
    progress.phase = 'pipeline'
    const attachMs = clock()

    await work.execute()
    // What was read is what was registered: nobody votes for anything else.
    assertIntact(run, decision)
    const pipelineMs = clock()

    progress.phase = 'release'
    await work.release()
    const verification = await verifyUpdate(work, staging)
    progress.phase = 'vote'
    await vote(rendezvous, epoch, work.stands(), wait)
    progress.phase = 'commit'
    await session.commit(run.version, run.manifest.digest)
    const over = call.finished && withDeadline(call.finished, { what: `the engine's call on rank ${rank}`, timeoutMs, signal })
    if (over) await namedWait(over, { what: `the ${run.engine.name} engine to end its update`, ...named })
    // Last, and after the own engine: who has all answers may go, and take the coordinator along, and nobody has anything left to wait for.
    await namedWait(rendezvous.allGather('update/committed', rank, options), { what: 'the other ranks to commit', ...named })
    const commitMs = clock()
    progress.phase = 'done'
    return makeReport(run, epoch, work.outcome(), verification, startedAt, { beginMs, planMs, attachMs, pipelineMs, commitMs })
  } catch (thrown) {
    const error = await run.fail(causeOf(run, thrown))
    await session.abort(error.message)
    // The engine's call ends with its workers; the next update then finds the engine at rest.
    if (ended) await withDeadline(ended, { what: 'the engine', timeoutMs: CALL_END_MS }).catch(() => undefined)
    throw error
  } finally {
    signal.removeEventListener('abort', onAbort)
    session.close()
  }
}

/** Compares parameters with what was registered, where that was asked for and a recording says what is where. */
async function verifyUpdate(work: DirectWork | StagedWork, staging: Staging): Promise<Verification> {
  const { run, epoch, session, ranks, wait } = staging
  const started = performance.now()
  const worker = run.verify === 'bytes' ? await work.worker() : undefined
  try {
    const inputs = { rendezvous: run.rendezvous, epoch: epoch.id, wait, ranks, manifest: run.manifest, segments: run.segments }
    const checked = run.verify === 'bytes' ? await run.check.run({ ...inputs, host: run.device.host, worker }) : undefined
    return verificationOf({
      asked: run.verify,
      hasDigests: run.manifest.ranks.every(({ tensors }) => tensors.count === 0 || tensors.digests !== undefined),
      comparesRing: session.checksDigests,
      staged: work.staged(),
      checked,
      milliseconds: performance.now() - started,
    })
  } catch (error) {
    if (worker?.required && CkptError.is(error, 'DIGEST_MISMATCH')) run.direct.distrust(worker.recording)
    throw error
  }
}

/** @throws CkptError `MEMORY_CHANGED` naming the file, where what this rank reads is not what was registered any more. */
function assertIntact(run: UpdateRun, decision?: Awaited<ReturnType<typeof decide>>): void {
  for (const memory of run.segments) memory.assertIntact?.()
  if (decision && 'prepared' in decision) decision.prepared.assertIntact()
}

/** Why it failed, where that is a file that changed: a worker that got its bytes can only say that digests differ. */
function causeOf(run: UpdateRun, thrown: unknown): unknown {
  try {
    assertIntact(run)
  } catch (error) {
    if (CkptError.is(error, 'MEMORY_CHANGED') && !CkptError.is(thrown, 'MEMORY_CHANGED')) {
      return new CkptError(error.code, error.message, { fields: error.fields, cause: thrown })
    }
  }
  return thrown
}

/**
 * A call that ends before the update does fails the session. The worker's own answer travels on another channel and says more, so
 * it gets a moment to arrive first.
 */
function watchCall(finished: Promise<void>, session: UpdateSession, rank: number): void {
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
