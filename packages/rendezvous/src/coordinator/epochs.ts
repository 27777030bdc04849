import type { CkptError } from '@ckpt/contract'

/** An epoch that not all of its ranks have left. */
export interface OpenEpoch {
  readonly id: number
  readonly ranks: readonly number[]
  /** Ranks that have not yet reported that it is over for them. */
  readonly inside: Set<number>
  aborted?: { readonly rank: number; readonly error: CkptError }
}

/** Epochs by id. Ids only grow; an epoch is forgotten when its last rank has left it. */
export class Epochs {
  readonly #open = new Map<number, OpenEpoch>()
  #last = 0

  /** Epochs in which some rank still takes part. */
  get size(): number {
    return this.#open.size
  }

  begin(ranks: readonly number[]): OpenEpoch {
    const epoch: OpenEpoch = { id: ++this.#last, ranks, inside: new Set(ranks) }
    this.#open.set(epoch.id, epoch)
    return epoch
  }

  get(id: number): OpenEpoch | undefined {
    return this.#open.get(id)
  }

  leave(id: number, rank: number): void {
    const epoch = this.#open.get(id)
    epoch?.inside.delete(rank)
    if (epoch?.inside.size === 0) this.#open.delete(id)
  }

  /** Epochs in which `rank` still takes part. */
  of(rank: number): OpenEpoch[] {
    return [...this.#open.values()].filter((epoch) => epoch.inside.has(rank))
  }
}
