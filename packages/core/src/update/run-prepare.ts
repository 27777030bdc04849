import { canRecord, CkptError, type EngineCall, type Epoch } from '@ckpt/contract'
import { onAbort, withDeadline } from '@ckpt/utils'
import { beginUpdate, startEngine, waitOf } from './begin-update.ts'
import type { UpdateRun } from './update-run.ts'
import { updateContext } from './update-context.ts'

/**
 * Does, on one rank, what an update does before bytes move. The engine's workers answer questions; their parameters stay as they
 * are. Resolves to the reason if such an update cannot be prepared.
 */
export async function runPrepare(run: UpdateRun, epoch: Epoch): Promise<string | undefined> {
  const wait = waitOf(run)
  const { timeoutMs, signal } = run
  const begun = await beginUpdate(run, epoch, wait)
  const { session } = begun
  const stopListening = onAbort(signal, () => session.fail(CkptError.from(signal.reason, 'ABORTED')))
  let call: EngineCall | undefined
  try {
    call = await startEngine(run, begun, 'prepare')
    const reason = await run.strategy.prepare!(updateContext(run, begun, wait))
    if (canRecord(session)) await session.leave()
    const what = `the engine of rank ${run.rendezvous.rank} to end its preparation`
    if (call.finished) await withDeadline(call.finished, { what, timeoutMs, signal })
    await run.rendezvous.allGather('prepare/done', run.rendezvous.rank, { epoch: epoch.id, ...wait })
    return reason
  } catch (thrown) {
    const error = await run.events.fail(thrown)
    await session.abort(error.message)
    throw error
  } finally {
    stopListening()
    session.close()
  }
}
