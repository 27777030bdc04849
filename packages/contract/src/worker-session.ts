import type { RingHandle } from './device.ts'
import type { EngineSession } from './engine.ts'
import type { CkptError } from './errors.ts'
import type { ProcessName } from './memory-identity.ts'
import type { Recording, StorageHandle, TensorForm } from './routes.ts'

/**
 * Oldest version of the worker protocol whose recordings are used: its workers sum what they keep, so that it can be compared
 * with the registered bytes.
 */
export const OLDEST_RECORDING_PROTOCOL = 3

/** Data that a worker sends when it connects. */
export interface WorkerGreeting {
  /** Version of the worker protocol; 0 for workers with a different protocol. */
  readonly protocol: number
  /** Its name for its current parameters, if it sends one. */
  readonly state: string | undefined
  /** Id of the recording that it holds and that matches its parameters. */
  readonly routes: string | undefined
  /** True if it can record what its loader would do with tensors that it is only told about. */
  readonly rehearses?: boolean
  /** Its process, if it sends data that identifies it. */
  readonly process?: ProcessName | undefined
}

/** A rank's connection to its engine worker, in any protocol, from binding its socket to the end of one update. */
export interface UpdateSession extends EngineSession {
  /** True if the worker compares the digests it receives before it loads a tensor. */
  readonly checksDigests: boolean
  /** Takes messages of a worker that presents `token`, from now on: what a worker sent before is heard now. */
  admit(token: string): void
  /** Waits for the worker's greeting. */
  greeted(signal: AbortSignal): Promise<WorkerGreeting>
  /** Waits for the worker, then hands it the ring. Requests made earlier wait for it; its failure fails the session. */
  attach(ring: RingHandle, totals: { tensors: number; bytes: number }, signal: AbortSignal): Promise<void>
  /** Tells the worker that all bytes have arrived: it finishes loading and releases the ring. */
  release(): Promise<void>
  /** Tells the worker to serve `version` from now on; the manifest's `digest` identifies its bytes. */
  commit(version: string, digest: string): Promise<void>
  /** Tells the worker, if still possible, that the update is aborted. Never throws. */
  abort(reason: string): Promise<void>
  /** Fails all current and later waits with `error`. */
  fail(error: CkptError): void
  close(): void
}

/** A session with a worker that can record, and whose parameters can be written to (docs/direct.md). */
export interface RecordingSession extends UpdateSession {
  /** Attaches without a ring if no bucket follows; with `record` the worker records its loader. */
  attach(
    ring: RingHandle | null,
    totals: { tensors: number; bytes: number },
    signal: AbortSignal,
    record?: boolean,
  ): Promise<void>
  /** Returns the checked copies that the worker recorded, or the reason why there is no usable recording. */
  routes(): Promise<Recording | string>
  /**
   * Has the worker record what its loader would do with such tensors: nothing is loaded. Resolves to the checked copies, or to
   * the reason why the loader must see data. Allowed before `attach`.
   */
  rehearse(tensors: readonly TensorForm[]): Promise<Recording | string>
  /** Ends the session of a worker that was only to prepare. */
  leave(): Promise<void>
  /** Returns handles of the recording's storages, or the reason why there are none. */
  storages(): Promise<readonly StorageHandle[] | string>
  /**
   * Allows writes to the parameters from the answer on, until `release`. Tensors named by `check` also come through the ring:
   * the worker's own loader is compared with the written bytes.
   */
  direct(routes: string, check?: readonly string[]): Promise<void>
  /**
   * From the answer on, the worker copies tensors from the ring itself, as recorded, instead of loading them. Resolves to the
   * number of tensors that it copies; 0 if it does not support this. `check` as for `direct`.
   */
  replay(routes: string, check?: readonly string[]): Promise<number>
  /**
   * Returns, after the release, sums of what the worker keeps of each route of `recording`, read from its parameters, by route;
   * or the reason why it cannot compute them (its parameters have moved).
   */
  sums(recording: Recording): Promise<BigUint64Array | string>
}

/** Returns true if a session's worker may be told to record. */
export function canRecord(session: UpdateSession): session is RecordingSession {
  return 'routes' in session
}
