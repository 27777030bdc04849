import {
  CkptError,
  type EngineCall,
  type Epoch,
  type UpdateAttempt,
  type UpdateSession,
  type WorkerState,
} from '@ckpt/contract'
import { onAbort, withDeadline } from '@ckpt/utils'
import { openSession, workerAddress } from '@ckpt/worker-link'
import { assertOneHost } from '../near/nearness.ts'
import type { StepTimes, UpdateReport } from '../report.ts'
import { announce, type Announcement } from './announcement.ts'
import { makeReport } from './make-report.ts'
import { namedWait } from './named-wait.ts'
import { ownAnnouncement } from './own-announcement.ts'
import type { UpdateRun } from './update-run.ts'
import { updateContext, type BegunUpdate } from './update-context.ts'
import { UpdateVerification } from './verify-update.ts'
import { vote } from './vote.ts'

/**
 * Additional time in milliseconds for which ranks whose engines answer wait for the others. So all of them learn that an engine
 * does not answer, and not only that its rank is missing.
 */
const READY_GRACE_MS = 1000
/** Time in milliseconds for which a failed update waits for the engine's call to end. */
const CALL_END_MS = 10_000

/** Deadline of every wait, and the participating ranks if these are not all. */
type Wait = { readonly timeoutMs: number; readonly signal: AbortSignal; readonly ranks?: readonly number[] }

/**
 * Runs one update on one rank, inside `epoch`. The other ranks learn of a failure (by `events.fail`) before the worker does.
 */
export async function runUpdate(run: UpdateRun, epoch: Epoch): Promise<UpdateReport> {
  const { engine, rendezvous, strategy, timeoutMs, signal } = run
  const { rank } = rendezvous
  const wait: Wait = { timeoutMs, signal, ...(strategy.ranks && { ranks: strategy.ranks }) }
  const steps = new Steps()
  const deviceUuid = run.device.uuid
  const state = await readyEngine(run)
  const address = workerAddress(engine, { rank, deviceUuid, socketDir: run.worker.socketDir, epoch: epoch.id })
  const endpoint = { rank, deviceUuid, address }
  // Before it is announced: the rank that calls the engine may be ahead of this one, and a worker refuses an address without a listener.
  const session = await openSession(engine, {
    rank,
    address,
    epoch: epoch.id,
    timeoutMs,
    onGiven: () => (run.progress.touched = true),
    onWaiting: run.events.onWaiting,
  })
  let begun: BegunUpdate
  try {
    const patience = { ...wait, timeoutMs: timeoutMs + READY_GRACE_MS }
    const announcements = await announce(rendezvous, epoch, await ownAnnouncement(run, endpoint, state), patience)
    session.admit(announcements[0]!.token)
    steps.end('beginMs')
    run.events.onBegin(announcements)
    const groups = await groupsOf(run, announcements, epoch, wait)
    // Before any engine is called. Workers with checkpoint-engine's protocol are never written to directly.
    const needsRing = !strategy.mayNeedNoRing || engine.protocol === 'checkpoint-engine'
    if (run.device.kind === 'host' && needsRing) assertOneHost(groups)
    assertIntact(run)
    begun = { epoch, announcements, groups, session }
  } catch (error) {
    session.close()
    throw error
  }
  return inSession(run, begun, wait, steps)
}

/** Runs the update from the moment that its worker can connect. */
async function inSession(run: UpdateRun, begun: BegunUpdate, wait: Wait, steps: Steps): Promise<UpdateReport> {
  const { session, epoch } = begun
  const { signal } = run
  const stopListening = onAbort(signal, () => session.fail(CkptError.from(signal.reason, 'ABORTED')))
  let call: EngineCall | undefined
  let attempt: UpdateAttempt | undefined
  try {
    call = await startEngine(run, begun)
    const context = updateContext(run, begun, wait)
    attempt = await run.strategy.begin(context)
    if (run.device.kind === 'host' && attempt.usesRing) assertOneHost(begun.groups)
    const verifying = new UpdateVerification(run, attempt, context, wait, epoch.id)
    await moveBytes(run, attempt, session, steps, () => verifying.plan())
    const verification = await verifying.finish()
    await commit(run, attempt, begun, call, wait)
    steps.end('commitMs')
    run.progress.phase = 'done'
    const report = makeReport(run, epoch, attempt.outcome(), verification, steps.startedAt, steps.times())
    attempt.committed?.()
    return report
  } catch (thrown) {
    const error = await run.events.fail(causeOf(run, thrown))
    await session.abort(error.message)
    // The engine's call ends with its workers, so the next update finds the engine idle.
    if (call?.finished) await withDeadline(call.finished, { what: 'the engine', timeoutMs: CALL_END_MS }).catch(() => undefined)
    throw error
  } finally {
    stopListening()
    session.close()
    attempt?.close?.()
  }
}

/** Plan, attach, pipeline, release; `meanwhile` is called when the bytes begin to move. */
async function moveBytes(
  run: UpdateRun,
  attempt: UpdateAttempt,
  session: UpdateSession,
  steps: Steps,
  meanwhile: () => void,
): Promise<void> {
  const { progress, signal } = run
  await attempt.plan()
  steps.end('planMs')
  progress.phase = 'attach'
  void session.greeted(signal).then(
    ({ state }) => (progress.workerState = state),
    () => undefined, // the attach fails with it
  )
  await attempt.attach()
  progress.phase = 'pipeline'
  steps.end('attachMs')
  const executed = attempt.execute()
  meanwhile()
  await executed
  // Checks that the bytes read are the registered ones, before any rank votes.
  assertIntact(run)
  attempt.assertIntact?.()
  steps.end('pipelineMs')
  progress.phase = 'release'
  await attempt.release()
}

/** Lets the ranks vote, and all workers serve the new version. */
async function commit(
  run: UpdateRun,
  attempt: UpdateAttempt,
  { epoch, session }: BegunUpdate,
  { finished }: EngineCall,
  wait: Wait,
): Promise<void> {
  const { engine, rendezvous, progress, held, timeoutMs, signal } = run
  const { rank } = rendezvous
  const named = { rank, onWaiting: run.events.onWaiting }
  progress.phase = 'vote'
  await vote(rendezvous, epoch, attempt.vote(), wait)
  progress.phase = 'commit'
  await session.commit(run.version, held.manifest.digest)
  const over = finished && withDeadline(finished, { what: `the engine's call on rank ${rank}`, timeoutMs, signal })
  if (over) await namedWait(over, { what: `the ${engine.name} engine to end its update`, ...named })
  // Last, and after the own engine: a rank with all answers may exit and end the coordinator, when no rank waits for anything.
  const all = rendezvous.allGather('update/committed', rank, { epoch: epoch.id, ...wait })
  await namedWait(all, { what: 'the other ranks to commit', ...named })
}

/** Waits until the engine can be updated. @returns the state of its worker, if the engine reports it */
async function readyEngine({ engine, rendezvous, timeoutMs, signal, events }: UpdateRun): Promise<WorkerState | undefined> {
  const { rank } = rendezvous
  const where = engine.where?.(rank)
  const what = `the ${engine.name} engine of rank ${rank} to answer${where === undefined ? '' : ` on ${where}`} (is it running?)`
  const state = await namedWait(engine.ready({ rank, timeoutMs, signal }), { what, rank, onWaiting: events.onWaiting })
  return state ?? undefined
}

/** Returns which ranks share memory, as they prove it to each other. */
function groupsOf(
  { rendezvous, keep }: UpdateRun,
  announcements: readonly Announcement[],
  epoch: Epoch,
  wait: Wait,
): Promise<ReadonlyMap<number, number>> {
  const located = announcements.map(({ endpoint, near }) => ({ rank: endpoint.rank, near }))
  return keep.nearness.groups(located, rendezvous.rank, (key, value) =>
    rendezvous.allGather(key, value, { epoch: epoch.id, ...wait }),
  )
}

/** Tells the engine to begin the update: its worker connects. */
async function startEngine(run: UpdateRun, { announcements, session }: BegunUpdate): Promise<EngineCall> {
  const { engine, rendezvous, version, timeoutMs, signal, events } = run
  const { rank } = rendezvous
  const endpoints = announcements.map(({ endpoint }) => endpoint)
  const starting = engine.start({ rank, endpoints, token: announcements[0]!.token, version, timeoutMs, signal })
  const named = { rank, onWaiting: events.onWaiting }
  const call = await namedWait(starting, { what: `the ${engine.name} engine to begin the update`, ...named })
  if (call.finished) watchCall(call.finished, session, rank)
  return call
}

/** @throws CkptError `MEMORY_CHANGED` naming the file, if what this rank reads differs from what was registered. */
function assertIntact({ held }: UpdateRun): void {
  for (const memory of held.segments) memory.assertIntact?.()
}

/** Returns the cause of the failure if a file changed: a worker that received its bytes can only report that digests differ. */
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
 * Fails the session if a call ends before the update. The worker's own answer arrives on a different channel and contains more,
 * so the session waits for it briefly.
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

/** Times the steps of an update, which run one after another. */
class Steps {
  readonly startedAt = performance.now()
  #last = this.startedAt
  readonly #times: { -readonly [step in keyof StepTimes]: number } = {
    beginMs: 0,
    planMs: 0,
    attachMs: 0,
    pipelineMs: 0,
    commitMs: 0,
  }

  end(step: keyof StepTimes): void {
    const now = performance.now()
    this.#times[step] = now - this.#last
    this.#last = now
  }

  times(): StepTimes {
    return { ...this.#times }
  }
}
