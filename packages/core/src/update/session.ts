import type { CkptError, EngineSession, RingHandle } from '@ckpt/contract'

/** A rank's connection to its engine worker, whatever that speaks, from binding its socket to the end of one update. */
export interface UpdateSession extends EngineSession {
  /** Whether the worker compares the digests it is given before it loads a tensor. */
  readonly checksDigests: boolean
  /** Waits for the worker's greeting; resolves to its name for the parameters it has, where it gives one. */
  greeted(signal: AbortSignal): Promise<string | undefined>
  /** Waits for the worker, then hands it the ring. What is asked before that is done waits for it; its failure fails the session. */
  attach(ring: RingHandle, totals: { tensors: number; bytes: number }, signal: AbortSignal): Promise<void>
  /** All bytes are there: the worker finishes loading and lets go of the ring. */
  release(): Promise<void>
  /** The worker serves `version` from now on. */
  commit(version: string): Promise<void>
  /** Tells the worker, as well as still possible, that the update is off. Never throws. */
  abort(reason: string): Promise<void>
  /** Fails everything that waits, now and later, with `error`. */
  fail(error: CkptError): void
  close(): void
}
