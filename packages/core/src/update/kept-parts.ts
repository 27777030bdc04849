import type { Kept, KeptByRank } from '@ckpt/contract'

/** State that strategies keep on this rank between updates. */
export class KeptParts implements KeptByRank {
  readonly #parts = new Map<new () => object, Kept>()

  of<T extends object>(type: new () => T): T {
    let part = this.#parts.get(type) as T | undefined
    if (part === undefined) this.#parts.set(type, (part = new type()))
    return part
  }

  /** Reports a successful update to all parts. */
  async idle(): Promise<void> {
    for (const part of this.#parts.values()) await part.idle?.()
  }

  /** Releases memory of checkpoints and engines. */
  async release(): Promise<void> {
    for (const part of this.#parts.values()) await part.release?.()
  }
}
