import { CkptError, type EngineCall, type Epoch, type UpdateAttempt, type UpdateSession } from '@ckpt/contract'
import { onAbort, withDeadline } from '@ckpt/utils'
import type { StepTimes, UpdateReport } from '../report.ts'
import { assertIntact, beginUpdate, startEngine, waitOf, type Wait } from './begin-update.ts'
import { makeReport } from './make-report.ts'
import { namedWait } from './named-wait.ts'
import type { UpdateRun } from './update-run.ts'
import { updateContext, type BegunUpdate } from './update-context.ts'
import { UpdateVerification } from './verify-update.ts'
import { vote } from './vote.ts'

/** Time in milliseconds for which a failed update waits for the engine's call to end. */
const CALL_END_MS = 10_000

/**
 * Runs one update on one rank, inside `epoch`. The other ranks learn of a failure (by `events.fail`) before the worker does.
 */
export async function runUpdate(run: UpdateRun, epoch: Epoch): Promise<UpdateReport> {
  const wait = waitOf(run)
  const steps = new Steps()
  const begun = await beginUpdate(run, epoch, wait)
  steps.end('beginMs')
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
    if (attempt.usesRing && begun.apart) throw begun.apart
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
