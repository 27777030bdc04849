import { CkptError, type ErrorCode } from '@ckpt/contract'
import { releaseAll, throwIfAborted, type Loaded } from '../load.ts'
import type { TensorSpec } from '../source.ts'
import { describedTensors } from './description.ts'
import { TRAINER_PROTOCOL, TrainerSession } from './session.ts'

const DEFAULT_TIMEOUT_MS = 60_000

/** What an error of loading means when a trainer, not the caller, said what to load. */
const TRAINER_CODES: Partial<Record<ErrorCode, ErrorCode>> = {
  INVALID_ARGUMENT: 'CHECKPOINT_MALFORMED',
  NATIVE_FAILURE: 'CHECKPOINT_UNREADABLE',
}

/**
 * Loads what a trainer serves: asks for its description, has `load` bring the tensors into memory, asks the trainer whether it
 * kept them all that time, has `add` register them, and tells it so. `load` gets a signal that is aborted when the trainer goes.
 *
 * @throws CkptError naming the socket as `peer`: `CHECKPOINT_UNREADABLE` when the trainer is not there or goes,
 * `CHECKPOINT_MALFORMED` when what it describes is not so, `TIMEOUT`, or what `load` throws. Nothing is added then.
 */
export async function withTrainer(
  source: { readonly trainer: string; readonly timeoutMs?: number },
  signal: AbortSignal,
  load: (specs: TensorSpec[], signal: AbortSignal) => Promise<Loaded>,
  add: (loaded: Loaded) => void,
): Promise<void> {
  const peer = source.trainer
  const timeoutMs = source.timeoutMs ?? DEFAULT_TIMEOUT_MS
  try {
    using session = await TrainerSession.connect(peer, { timeoutMs, signal })
    try {
      session.send({ type: 'hello', protocol: TRAINER_PROTOCOL })
      const specs = describedTensors(peer, await session.expect('tensors', signal))
      const loaded = await load(specs, AbortSignal.any([signal, session.lost]))
      try {
        session.send({ type: 'copied' })
        await session.expect('kept', signal)
        throwIfAborted(signal)
        add(loaded)
      } catch (error) {
        releaseAll(loaded.blocks)
        throw error
      }
      session.send({ type: 'registered' })
    } catch (error) {
      if (!session.lost.aborted)
        session.send({ type: 'failed', message: error instanceof Error ? error.message : String(error) })
      throw error
    }
  } catch (thrown) {
    if (!CkptError.is(thrown)) throw thrown
    const code = TRAINER_CODES[thrown.code]
    if (code === undefined || thrown.fields.peer !== undefined) throw thrown.with({ peer })
    throw new CkptError(code, `trainer ${peer}: ${thrown.message}`, { cause: thrown, fields: { ...thrown.fields, peer } })
  }
}
