import { OLDEST_RECORDING_PROTOCOL, type Manifest, type Recording, type RecordingSession } from '@ckpt/contract'
import { heldTensors, recordingMismatch } from '@ckpt/planner'

/** What one rank knows of the recording that its worker holds. */
export class Recordings {
  #recording: Recording | undefined
  /** Id of a recording by which an update went wrong. */
  #distrusted: string | undefined
  /** The last answer of {@link Recordings.mismatch}. */
  #compared: { readonly recording: Recording; readonly manifest: Manifest; readonly mismatch: string | undefined } | undefined

  /** Takes the recording that a worker has just made with a checkpoint. @returns why it is not that checkpoint's, and not used */
  learn(recording: Recording, manifest: Manifest): string | undefined {
    const reason = this.mismatch(recording, manifest)
    if (reason === undefined) this.#recording = recording
    return reason
  }

  /** Why a recording is not of such a checkpoint: of a tensor that it never saw, it cannot say what became of it. */
  mismatch(recording: Recording, manifest: Manifest): string | undefined {
    if (this.#compared?.recording !== recording || this.#compared.manifest !== manifest) {
      this.#compared = { recording, manifest, mismatch: recordingMismatch(heldTensors(manifest), recording) }
    }
    return this.#compared.mismatch
  }

  /** Parameters were found wrong after an update by this recording: it is not used again. */
  distrust(recording: Recording): void {
    this.#distrusted = recording.id
    this.#recording = undefined
  }

  isDistrusted(id: string): boolean {
    return id === this.#distrusted
  }

  /** The worker's recording `id`, asked for where it is not known yet; or why there is none that can be used. */
  async byId(session: RecordingSession, id: string): Promise<Recording | string> {
    if (this.#recording?.id !== id) {
      const recording = await session.routes()
      if (typeof recording === 'string') return recording
      this.#recording = recording
    }
    return this.#recording
  }

  /** The recording that a session's worker holds, where it holds one that can be trusted and is of such a checkpoint. */
  async usable(session: RecordingSession, manifest: Manifest, signal: AbortSignal): Promise<Recording | undefined> {
    const { routes, protocol } = await session.greeted(signal)
    if (routes === undefined || this.isDistrusted(routes) || protocol < OLDEST_RECORDING_PROTOCOL) return undefined
    const recording = await this.byId(session, routes)
    return typeof recording === 'string' || this.mismatch(recording, manifest) !== undefined ? undefined : recording
  }
}
