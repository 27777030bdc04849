import {
  CkptError,
  type EngineAdapter,
  type Rendezvous,
  type SerializedError,
  type Waiting,
  type WorkerState,
} from '@ckpt/contract'
import { namedWait } from './named-wait.ts'

/** Engine of one rank, and how long to wait for it. */
export interface EngineWait {
  readonly engine: EngineAdapter
  readonly rendezvous: Rendezvous
  readonly timeoutMs: number
  readonly signal: AbortSignal
  readonly onWaiting: (waiting: Waiting) => void
}

/**
 * Additional time in milliseconds for which ranks whose engines answer wait for the others. So all of them learn that an engine
 * does not answer, and not only that its rank is missing.
 */
export const READY_GRACE_MS = 1000

/** Waits until the engine can be updated. @returns the state of its worker, if the engine reports it */
export async function readyEngine(wait: EngineWait): Promise<WorkerState | undefined> {
  const { engine, rendezvous, timeoutMs, signal, onWaiting } = wait
  const { rank } = rendezvous
  const where = engine.where?.(rank)
  const what = `the ${engine.name} engine of rank ${rank} to answer${where === undefined ? '' : ` on ${where}`} (is it running?)`
  const state = await namedWait(engine.ready({ rank, timeoutMs, signal }), { what, rank, onWaiting })
  return state ?? undefined
}

/** Waits until the engines of all ranks can be updated. @throws CkptError of the first rank whose engine cannot, on all ranks */
export async function readyEngines(wait: EngineWait): Promise<void> {
  const { rendezvous, timeoutMs, signal } = wait
  const own = await readyEngine(wait).then(
    () => null,
    (error: unknown) => CkptError.from(error, 'ENGINE_UNREACHABLE').with({ rank: rendezvous.rank }),
  )
  if (signal.aborted && own !== null) throw own
  const patience = { timeoutMs: timeoutMs + READY_GRACE_MS, signal }
  const all = await rendezvous.allGather<SerializedError | null>('engines/ready', own?.toJSON() ?? null, patience)
  const failed = all.find((error) => error !== null)
  if (failed) throw own ?? CkptError.deserialize(failed)
}
