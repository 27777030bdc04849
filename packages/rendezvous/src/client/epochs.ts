import { CkptError, type Epoch } from '@ckpt/contract'

import { startDeadline } from '../timers.ts'

interface OpenEpoch {
  readonly epoch: Epoch
  readonly controller: AbortController
  /** Cancels the deadline of an abort that was asked for here and not yet confirmed. */
  stop?: () => void
}

/** Aborted epochs whose reason is remembered for late calls. */
const REMEMBERED = 64

/** The epochs that one rank is inside of. */
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

  /** Waits `ms` for the coordinator to say whose error was first, then calls `giveUp`. False when the epoch is over or asked to be already. */
  awaitAbort(id: number, ms: number, giveUp: () => void): boolean {
    const open = this.#open.get(id)
    if (!open || open.stop) return false
    open.stop = startDeadline(ms, giveUp)
    return true
  }

  /** Why a call in this epoch cannot be made; undefined when it can. */
  refusal(id: number): CkptError | undefined {
    if (this.#open.has(id)) return undefined
    return (
      this.#reasons.get(id) ??
      new CkptError('INVALID_STATE', `epoch ${id} is not running on this rank`, { fields: { epoch: id } })
    )
  }

  /** The coordinator knows that this epoch was aborted: it need not keep it for this rank. */
  acknowledge(id: number): void {
    this.#ended.push(id)
  }

  /** Ids of epochs that the coordinator may forget since the last call: those that ended well, and those it aborted itself. */
  takeEnded(): number[] {
    const ended = this.#ended
    this.#ended = []
    return ended
  }
}
