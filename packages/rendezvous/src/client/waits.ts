import type { Blob, CkptError, Epoch } from '@ckpt/contract'

import { startDeadline } from '../timers.ts'
import type { GatherKind } from '../wire/messages.ts'

/** Result of a gather. */
export type Gathered =
  | { readonly kind: 'value'; readonly values: readonly Uint8Array[] }
  | { readonly kind: 'blob'; readonly blobs: Blob[] }
  | { readonly kind: 'barrier' }
  | { readonly kind: 'epoch'; readonly epoch: Epoch }

/** A gather in which this rank waits. */
export interface Wait {
  readonly id: number
  readonly kind: GatherKind
  readonly key: string
  readonly epoch: number | undefined
  /** Undefined for all ranks at the end of the wait. */
  readonly ranks: readonly number[] | undefined
  /** This rank's contribution to a gather of blobs. */
  readonly blob: Blob | undefined
  /** Gathered digests, and their payloads found so far. */
  digests?: readonly string[]
  readonly payloads: Map<string, Uint8Array>
  /** Start time (`performance.now()`). */
  readonly began: number
}

/** Names a wait after its call. */
export function describeWait({ kind, key }: Pick<Wait, 'kind' | 'key'>): string {
  return kind === 'epoch' ? 'beginEpoch' : `${kind} gather ${JSON.stringify(key)}`
}

export interface WaitRequest extends Omit<Wait, 'id' | 'payloads' | 'digests' | 'began'> {
  readonly signal: AbortSignal | undefined
  readonly timeoutMs: number
  /** Called when the wait's own deadline has passed, or its signal was aborted; returns the error of the wait. */
  readonly onTimeout: (wait: Wait) => CkptError
  readonly onCancel: (wait: Wait, reason: unknown) => CkptError
}

interface OpenWait {
  readonly wait: Wait
  readonly resolve: (gathered: Gathered) => void
  readonly reject: (error: CkptError) => void
}

/** All waits of one rank. A wait ends exactly once, together with its timer and listener. */
export class Waits {
  readonly #open = new Map<number, OpenWait>()
  #lastId = 0

  /** Opens a wait; `start` is called with it, to send its message. */
  open(request: WaitRequest, start: (wait: Wait) => void): Promise<Gathered> {
    const { kind, key, epoch, ranks, blob, signal, timeoutMs, onTimeout, onCancel } = request
    const wait: Wait = { id: ++this.#lastId, kind, key, epoch, ranks, blob, payloads: new Map(), began: performance.now() }
    return new Promise<Gathered>((resolve, reject) => {
      const stop = startDeadline(timeoutMs, () => this.fail(wait.id, onTimeout(wait)))
      const cancel = () => this.fail(wait.id, onCancel(wait, signal?.reason))
      const settle = () => {
        stop()
        signal?.removeEventListener('abort', cancel)
      }
      signal?.addEventListener('abort', cancel, { once: true })
      this.#open.set(wait.id, {
        wait,
        resolve: (gathered) => {
          settle()
          resolve(gathered)
        },
        reject: (error) => {
          settle()
          reject(error)
        },
      })
      start(wait)
    })
  }

  get(id: number): Wait | undefined {
    return this.#open.get(id)?.wait
  }

  resolve(id: number, gathered: Gathered): void {
    const open = this.#open.get(id)
    this.#open.delete(id)
    open?.resolve(gathered)
  }

  fail(id: number, error: CkptError): void {
    const open = this.#open.get(id)
    this.#open.delete(id)
    open?.reject(error)
  }

  /** Fails every wait for which `test` is true. */
  failAll(error: CkptError, test: (wait: Wait) => boolean = () => true): void {
    for (const { wait } of [...this.#open.values()]) if (test(wait)) this.fail(wait.id, error)
  }
}
