import {
  OLDEST_RECORDING_PROTOCOL,
  type Manifest,
  type Recording,
  type RecordingSession,
  type WorkerGreeting,
} from '@ckpt/contract'
import { heldTensors, recordingMismatch } from '@ckpt/planner'

/**
 * Number of recordings in a row that could not be used, after which a worker is not recorded again: recording slows an update
 * down. The first one is in vain for engines that create their parameters then.
 */
const MAX_VAIN_RECORDINGS = 3

/** Knowledge of one rank about the recording that its worker holds. */
export class Recordings {
  #recording: Recording | undefined
  /** Id of a recording that led to a wrong update. */
  #distrusted: string | undefined
  /** Worker to which the following two apply: another process may load in another way. */
  #rehearser = ''
  /** Layout of the last checkpoint that the worker's loader could not rehearse. */
  #unrehearsed: { readonly layout: string; readonly reason: string } | undefined
  /** Reason not to trust the worker's rehearsals any more. */
  #wrongRehearsal: string | undefined
  /** Last answer of {@link Recordings.mismatch}. */
  #compared: { readonly recording: Recording; readonly manifest: Manifest; readonly mismatch: string | undefined } | undefined

  /** Recordings in a row of one worker that no update has used. */
  #vain = { worker: '', count: 0, result: '' }

  /** Counts a recording; `result` describes it. */
  countRecording(greeting: WorkerGreeting, result: string): void {
    const worker = workerName(greeting)
    const count = worker === this.#vain.worker ? this.#vain.count + 1 : 1
    this.#vain = { worker, count, result }
  }

  /** Notes that the worker's recording is still there when an update begins. */
  countUse(): void {
    this.#vain = { worker: '', count: 0, result: '' }
  }

  /** Returns the reason why this worker is not recorded again, if there is one. */
  reasonNotToRecord(greeting: WorkerGreeting): string | undefined {
    const { worker, count, result } = this.#vain
    if (worker !== workerName(greeting) || count < MAX_VAIN_RECORDINGS) return undefined
    return `its engine worker was recorded ${count} times in vain (${result}), and is not recorded again`
  }

  /**
   * Stores the recording that a worker has just made with a checkpoint. @returns the reason if it does not match that
   * checkpoint and is not used
   */
  learn(recording: Recording, manifest: Manifest): string | undefined {
    const reason = this.mismatch(recording, manifest)
    if (reason === undefined) this.#recording = recording
    return reason
  }

  /**
   * Returns the reason why a recording does not match such a checkpoint: it cannot tell what happens to a tensor that it never
   * saw.
   */
  mismatch(recording: Recording, manifest: Manifest): string | undefined {
    if (this.#compared?.recording !== recording || this.#compared.manifest !== manifest) {
      this.#compared = { recording, manifest, mismatch: recordingMismatch(heldTensors(manifest), recording) }
    }
    return this.#compared.mismatch
  }

  /**
   * Returns what the worker's loader would do with such a checkpoint, without loading it; or the reason why it must be loaded to
   * know. A worker that could not tell is not asked again about the same layout until it restarts.
   */
  async rehearse(
    session: RecordingSession,
    greeting: WorkerGreeting,
    manifest: Manifest,
    layout: string,
  ): Promise<Recording | string> {
    const worker = workerName(greeting)
    if (worker !== this.#rehearser) {
      this.#rehearser = worker
      this.#unrehearsed = this.#wrongRehearsal = undefined
    }
    if (this.#wrongRehearsal !== undefined) return this.#wrongRehearsal
    if (this.#unrehearsed?.layout === layout) return this.#unrehearsed.reason
    const tensors = [...heldTensors(manifest)].map(([name, { dtype, shape }]) => ({ name, dtype, shape }))
    const found = await session.rehearse(tensors)
    const reason = typeof found === 'string' ? found : this.learn(found, manifest)
    if (reason === undefined) return found
    this.#unrehearsed = { layout, reason }
    return reason
  }

  /** Marks a recording as unusable after an update by it wrote wrong parameters. */
  distrust(recording: Recording): void {
    if (recording.rehearsed) this.#wrongRehearsal = 'the routes of a rehearsal wrote wrong bytes'
    this.#distrusted = recording.id
    this.#recording = undefined
  }

  isDistrusted(id: string): boolean {
    return id === this.#distrusted
  }

  /** Returns the worker's recording `id`, requesting it if it is not known yet; or the reason why there is no usable one. */
  async byId(session: RecordingSession, id: string): Promise<Recording | string> {
    if (this.#recording?.id !== id) {
      const recording = await session.routes()
      if (typeof recording === 'string') return recording
      this.#recording = recording
    }
    return this.#recording
  }

  /** Returns the recording that a session's worker holds, if it is trusted and matches such a checkpoint. */
  async usable(session: RecordingSession, manifest: Manifest, signal: AbortSignal): Promise<Recording | undefined> {
    const { routes, protocol } = await session.greeted(signal)
    if (routes === undefined || this.isDistrusted(routes) || protocol < OLDEST_RECORDING_PROTOCOL) return undefined
    const recording = await this.byId(session, routes)
    return typeof recording === 'string' || this.mismatch(recording, manifest) !== undefined ? undefined : recording
  }
}

/** Returns a name that changes when a worker is restarted, if it says which process it is. */
function workerName({ process }: WorkerGreeting): string {
  return `worker ${JSON.stringify(process ?? null)}`
}
