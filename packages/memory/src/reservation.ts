import type { HostMemory, TensorMeta } from '@ckpt/contract'

/** Memory for a checkpoint whose bytes come from elsewhere. It is registered in the end, or released. */
export class Reservation implements Disposable {
  readonly checkpoint: string
  /** Memory by segment index, at least as large as requested. */
  readonly segments: readonly HostMemory[]
  readonly #settle: (tensors: readonly TensorMeta[] | undefined, digests: BigUint64Array | undefined) => void
  #open = true

  /** @internal Created by `CheckpointStore.reserve`. */
  constructor(
    checkpoint: string,
    segments: readonly HostMemory[],
    settle: (tensors: readonly TensorMeta[] | undefined, digests: BigUint64Array | undefined) => void,
  ) {
    this.checkpoint = checkpoint
    this.segments = segments
    this.#settle = settle
  }

  /**
   * Registers the current contents of the segments. `digests`: of every tensor, if known (docs/worker-protocol.md). Once; after
   * a release it does nothing.
   */
  register(tensors: readonly TensorMeta[], digests?: BigUint64Array): void {
    if (!this.#open) return
    this.#open = false
    this.#settle(tensors, digests)
  }

  /** Releases the memory, unless it has been registered. */
  release(): void {
    if (!this.#open) return
    this.#open = false
    this.#settle(undefined, undefined)
  }

  [Symbol.dispose](): void {
    this.release()
  }
}
