interface Held {
  readonly payload: Uint8Array
  uses: number
}

/** Keys whose latest payloads are kept. */
const MAX_KEYS = 16

/**
 * Payloads by digest. What is held is the latest payload of each rank for each of the keys used last; a payload that nothing refers to any
 * more is dropped, after {@link graceMs} for those who may still ask for it.
 */
export class BlobStore {
  readonly #held = new Map<string, Held>()
  /** Latest digests by key and rank; keys in order of last use. */
  readonly #keys = new Map<string, Map<number, string>>()
  readonly #leaving: { digest: string; at: number }[] = []
  readonly #graceMs: number

  constructor(graceMs = 0) {
    this.#graceMs = graceMs
  }

  /** Number of payloads held. */
  get size(): number {
    return this.#held.size
  }

  get(digest: string): Uint8Array | undefined {
    return this.#held.get(digest)?.payload
  }

  /** Makes `payload` the latest of `rank` for `key`. */
  put(key: string, rank: number, digest: string, payload: Uint8Array): void {
    const ranks = this.#keys.get(key) ?? new Map<number, string>()
    this.#keys.delete(key)
    this.#keys.set(key, ranks)
    const old = ranks.get(rank)
    if (old !== digest) {
      ranks.set(rank, digest)
      const held = this.#held.get(digest)
      if (held) held.uses++
      else this.#held.set(digest, { payload, uses: 1 })
      if (old !== undefined) this.#release(old)
    }
    for (const [oldest, digests] of this.#keys) {
      if (this.#keys.size <= MAX_KEYS) break
      this.#keys.delete(oldest)
      for (const value of digests.values()) this.#release(value)
    }
  }

  /** Drops what nobody refers to and whose grace is over. */
  sweep(): void {
    const until = performance.now() - this.#graceMs
    while (this.#leaving.length > 0 && this.#leaving[0]!.at <= until) this.#drop(this.#leaving.shift()!.digest)
  }

  #release(digest: string): void {
    if (this.#graceMs === 0) this.#drop(digest)
    else this.#leaving.push({ digest, at: performance.now() })
  }

  #drop(digest: string): void {
    const held = this.#held.get(digest)
    if (held && --held.uses === 0) this.#held.delete(digest)
  }
}
