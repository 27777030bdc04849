import { CkptError, type ErrorCode } from '@ckpt/contract'
import { releaseAll, throwIfAborted, type Loaded } from '../load.ts'
import type { TensorSpec } from '../source.ts'
import { describedTensors } from './description.ts'
import { TRAINER_PROTOCOL, TrainerSession } from './session.ts'

const DEFAULT_TIMEOUT_MS = 60_000

/** Codes of loading errors if a trainer, not the caller, described the tensors. */
const TRAINER_CODES: Partial<Record<ErrorCode, ErrorCode>> = {
  INVALID_ARGUMENT: 'CHECKPOINT_MALFORMED',
  NATIVE_FAILURE: 'CHECKPOINT_UNREADABLE',
}

/**
 * Loads the tensors that a trainer serves. It requests the description, lets `load` read the tensors into memory, asks the
 * trainer if it kept them all that time, lets `add` register them, and notifies it. `load` gets a signal that is aborted when
 * the trainer ends.
 *
 * @throws CkptError naming the socket as `peer`: `CHECKPOINT_UNREADABLE` if the trainer is missing or ends,
 * `CHECKPOINT_MALFORMED` if its description is wrong, `TIMEOUT`, or the errors of `load`. Nothing is added then.
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
