import { CkptError, type Epoch } from '@ckpt/contract'

import { startDeadline } from '../timers.ts'

interface OpenEpoch {
  readonly epoch: Epoch
  readonly controller: AbortController
  /** Cancels the deadline of an abort that was requested here and is not yet confirmed. */
  stop?: () => void
}

/** Number of aborted epochs whose reason is remembered for late calls. */
const REMEMBERED = 64

/** Epochs in which one rank takes part. */
export class LocalEpochs {
  readonly #open = new Map<number, OpenEpoch>()
  readonly #reasons = new Map<number, CkptError>()
  #ended: number[] = []

  begin(id: number): Epoch {
    const controller = new AbortController()
    const epoch = { id, signal: controller.signal }
    this.#open.set(id, { epoch, controller })
    return epoch
  }

  has(id: number): boolean {
    return this.#open.has(id)
  }

  end(id: number): void {
    const open = this.#open.get(id)
    if (!open || open.stop) return
    this.#open.delete(id)
    this.#ended.push(id)
  }

  /** Aborts an epoch here; the first reason stays. */
  abort(id: number, reason: CkptError): void {
    const open = this.#open.get(id)
    if (!open) return
    open.stop?.()
    this.#open.delete(id)
    this.#reasons.set(id, reason)
    for (const oldest of this.#reasons.keys()) {
      if (this.#reasons.size <= REMEMBERED) break
      this.#reasons.delete(oldest)
    }
    open.controller.abort(reason)
  }

  abortAll(reason: (id: number) => CkptError): void {
    for (const id of [...this.#open.keys()]) this.abort(id, reason(id))
  }

  /**
   * Waits `ms` for the coordinator to report whose error was first, then calls `giveUp`. Returns false if the epoch is over or
   * its abort was already requested.
   */
  awaitAbort(id: number, ms: number, giveUp: () => void): boolean {
    const open = this.#open.get(id)
    if (!open || open.stop) return false
    open.stop = startDeadline(ms, giveUp)
    return true
  }

  /** Returns the reason why a call in this epoch is not allowed; undefined if it is. */
  refusal(id: number): CkptError | undefined {
    if (this.#open.has(id)) return undefined
    return (
      this.#reasons.get(id) ??
      new CkptError('INVALID_STATE', `epoch ${id} is not running on this rank`, { fields: { epoch: id } })
    )
  }

  /** Marks that the coordinator knows that this epoch was aborted: it need not keep it for this rank. */
  acknowledge(id: number): void {
    this.#ended.push(id)
  }

  /**
   * Returns ids of epochs that the coordinator may forget since the last call: those that ended successfully, and those it
   * aborted itself.
   */
  takeEnded(): number[] {
    const ended = this.#ended
    this.#ended = []
    return ended
  }
}
