import type { RingHandle } from './device.ts'
import type { EngineSession } from './engine.ts'
import type { CkptError } from './errors.ts'
import type { ProcessName } from './memory-identity.ts'
import type { Recording, StorageHandle } from './routes.ts'

/** The oldest version of the worker protocol whose recordings are used: its workers sum what they keep, so that it can be held against what was registered. */
export const OLDEST_RECORDING_PROTOCOL = 3

/** What a worker says of itself when it connects. */
export interface WorkerGreeting {
  /** Version of the worker protocol; 0 for workers that speak another one. */
  readonly protocol: number
  /** Its name for the parameters it has, where it gives one. */
  readonly state: string | undefined
  /** Id of the recording that it holds and that fits its parameters. */
  readonly routes: string | undefined
  /** Its process, where it says by what it can be told from others. */
  readonly process?: ProcessName | undefined
}

/** A rank's connection to its engine worker, whatever that speaks, from binding its socket to the end of one update. */
export interface UpdateSession extends EngineSession {
  /** Whether the worker compares the digests it is given before it loads a tensor. */
  readonly checksDigests: boolean
  /** Waits for the worker's greeting. */
  greeted(signal: AbortSignal): Promise<WorkerGreeting>
  /** Waits for the worker, then hands it the ring. What is asked before that is done waits for it; its failure fails the session. */
  attach(ring: RingHandle, totals: { tensors: number; bytes: number }, signal: AbortSignal): Promise<void>
  /** All bytes are there: the worker finishes loading and lets go of the ring. */
  release(): Promise<void>
  /** The worker serves `version`, whose bytes the manifest's `digest` tells, from now on. */
  commit(version: string, digest: string): Promise<void>
  /** Tells the worker, as well as still possible, that the update is off. Never throws. */
  abort(reason: string): Promise<void>
  /** Fails everything that waits, now and later, with `error`. */
  fail(error: CkptError): void
  close(): void
}

/** A session with a worker that can record, and lets its parameters be written to (docs/direct.md). */
export interface RecordingSession extends UpdateSession {
  /** Without a ring where no bucket will come; with `record` the worker watches its loader. */
  attach(
    ring: RingHandle | null,
    totals: { tensors: number; bytes: number },
    signal: AbortSignal,
    record?: boolean,
  ): Promise<void>
  /** What the worker was seen to copy, checked, or why there is no recording that can be used. */
  routes(): Promise<Recording | string>
  /** How the recording's storages are reached, or why they are not. */
  storages(): Promise<readonly StorageHandle[] | string>
  /**
   * From the answer on parameters may be written, until `release`. Tensors named by `check` come through the ring too: the worker's own loader
   * is held against what was written.
   */
  direct(routes: string, check?: readonly string[]): Promise<void>
  /**
   * From the answer on the worker copies what comes through the ring itself, as it was recorded, instead of loading it. Resolves to the number of
   * tensors that it does that with; 0 where it does not know how to. `check` as for `direct`.
   */
  replay(routes: string, check?: readonly string[]): Promise<number>
  /**
   * After the release: sums of what the worker keeps of each route of `recording`, read from its parameters, by route; or why it cannot
   * tell (its parameters have moved).
   */
  sums(recording: Recording): Promise<BigUint64Array | string>
}

/** Whether a session's worker may be asked to record. */
export function canRecord(session: UpdateSession): session is RecordingSession {
  return 'routes' in session
}
