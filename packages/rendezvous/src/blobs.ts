interface Held {
  readonly payload: Uint8Array
  uses: number
}

/** Maximum number of keys of one rank whose latest payloads are kept, and their maximum total bytes. */
const MAX_KEYS = 16
const MAX_BYTES = 256 * 2 ** 20

/** Payloads that one rank has sent: digests and sizes by key, keys in order of last use. */
type Brought = Map<string, { readonly digest: string; readonly bytes: number }>

/**
 * Payloads by digest. It holds the latest payload of each rank for each of the keys that it used last, within limits per rank,
 * so no rank displaces payloads of others. An unreferenced payload is dropped, after {@link graceMs} for ranks that may still
 * request it.
 */
export class BlobStore {
  readonly #held = new Map<string, Held>()
  readonly #ranks = new Map<number, Brought>()
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

  /** Returns the payload of this digest, if `rank` itself has sent it. */
  broughtBy(rank: number, digest: string): Uint8Array | undefined {
    for (const one of this.#ranks.get(rank)?.values() ?? []) if (one.digest === digest) return this.get(digest)
    return undefined
  }

  /** Makes `payload` the latest of `rank` for `key`. */
  put(key: string, rank: number, digest: string, payload: Uint8Array): void {
    const brought: Brought = this.#ranks.get(rank) ?? (new Map() as Brought)
    this.#ranks.set(rank, brought)
    const old = brought.get(key)
    brought.delete(key)
    brought.set(key, { digest, bytes: payload.byteLength })
    if (old?.digest !== digest) {
      const held = this.#held.get(digest)
      if (held) held.uses++
      else this.#held.set(digest, { payload, uses: 1 })
      if (old) this.#release(old.digest)
    }
    let bytes = 0
    for (const one of brought.values()) bytes += one.bytes
    for (const [oldest, one] of brought) {
      if ((brought.size <= MAX_KEYS && bytes <= MAX_BYTES) || oldest === key) break
      brought.delete(oldest)
      bytes -= one.bytes
      this.#release(one.digest)
    }
  }

  /** Drops unreferenced payloads whose grace period is over. */
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
