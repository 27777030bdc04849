import { CkptError } from '@ckpt/contract'

/** Maximum gathers in which one rank may wait at once, and the maximum bytes of its contributions. */
export const MAX_OPEN_GATHERS = 256
export const MAX_OPEN_BYTES = 256 * 2 ** 20
/** Maximum keys whose latest publication is kept, and their maximum total bytes. */
const MAX_PUBLISHED = 16
const MAX_PUBLISHED_BYTES = 256 * 2 ** 20

/**
 * Returns the reason why a rank that waits in `open` gathers with `bytes` bytes may not contribute `more`; undefined if it may.
 */
export function overLimit(rank: number, open: number, bytes: number, more: number): CkptError | undefined {
  const fields = { rank, open, bytes: bytes + more }
  if (open >= MAX_OPEN_GATHERS)
    return new CkptError('INVALID_STATE', `rank ${rank} waits in ${open} gathers: at most ${MAX_OPEN_GATHERS} at once`, {
      fields,
    })
  if (bytes + more <= MAX_OPEN_BYTES) return undefined
  const text = `rank ${rank} has ${bytes} bytes in open gathers: with ${more} more they exceed ${MAX_OPEN_BYTES}`
  return new CkptError('INVALID_STATE', text, { fields })
}

/** Payloads that ranks have published, by key: the latest ones, within limits. */
export class Publications {
  /** In order of publication. */
  readonly #payloads = new Map<string, Uint8Array>()
  #bytes = 0

  get(key: string): Uint8Array | undefined {
    return this.#payloads.get(key)
  }

  put(key: string, payload: Uint8Array): void {
    this.#delete(key)
    this.#payloads.set(key, payload)
    this.#bytes += payload.byteLength
    for (const oldest of this.#payloads.keys()) {
      if (oldest === key || (this.#payloads.size <= MAX_PUBLISHED && this.#bytes <= MAX_PUBLISHED_BYTES)) break
      this.#delete(oldest)
    }
  }

  #delete(key: string): void {
    this.#bytes -= this.#payloads.get(key)?.byteLength ?? 0
    this.#payloads.delete(key)
  }
}
