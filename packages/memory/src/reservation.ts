import type { HostMemory, TensorMeta } from '@ckpt/contract'
import type { Loaded } from './load.ts'

/** Memory for a checkpoint whose bytes somebody else brings. Either it is registered in the end, or given back. */
export class Reservation implements Disposable {
  readonly checkpoint: string
  /** Memory by segment index, as large as was asked for or larger. */
  readonly segments: readonly HostMemory[]
  readonly #settle: (loaded: Pick<Loaded, 'tensors'> | undefined, digests: BigUint64Array | undefined) => void
  #open = true

  /** @internal Made by `CheckpointStore.reserve`. */
  constructor(
    checkpoint: string,
    segments: readonly HostMemory[],
    settle: (loaded: Pick<Loaded, 'tensors'> | undefined, digests: BigUint64Array | undefined) => void,
  ) {
    this.checkpoint = checkpoint
    this.segments = segments
    this.#settle = settle
  }

  /**
   * Registers what now lies in the segments. `digests`: of every tensor, where they are known (docs/worker-protocol.md). Once; after a
   * release it does nothing.
   */
  register(tensors: readonly TensorMeta[], digests?: BigUint64Array): void {
    if (!this.#open) return
    this.#open = false
    this.#settle({ tensors }, digests)
  }

  /** Gives the memory back, unless it has been registered. */
  release(): void {
    if (!this.#open) return
    this.#open = false
    this.#settle(undefined, undefined)
  }

  [Symbol.dispose](): void {
    this.release()
  }
}
