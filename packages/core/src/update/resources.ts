import type { Collective, Device, Exchange, Ring } from '@ckpt/contract'

/** Ring and collective of one rank: created for an update, then kept for the next one or released. */
export class UpdateResources {
  readonly #device: Device
  #ring: Ring | undefined
  #collective: { readonly members: string; readonly value: Collective } | undefined
  #exchange: Exchange | undefined
  /** Collectives that are being left. */
  readonly #leaving = new Set<Promise<void>>()

  constructor(device: Device) {
    this.#device = device
  }

  /** Returns a ring of exactly `bytes`: the kept one if it has that size. */
  async ring(bytes: number): Promise<Ring> {
    if (this.#ring?.bytes !== bytes) {
      await this.#ring?.close()
      this.#ring = undefined
      this.#ring = await this.#device.createRing(bytes)
    }
    return this.#ring
  }

  /**
   * Returns the collective of `members`: the kept one if the members are the same. `exchange` is used now and by later runs of
   * it, until the next call.
   */
  async collective(
    members: readonly number[],
    rank: number,
    exchange: Exchange,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<Collective> {
    this.#exchange = exchange
    const key = members.join(',')
    if (this.#collective?.members !== key) {
      await this.#collective?.value.close()
      this.#collective = undefined
      const value = await this.#device.createCollective({
        position: members.indexOf(rank),
        size: members.length,
        exchange: (name, item) => this.#exchange!(name, item),
        timeoutMs,
        signal,
      })
      this.#collective = { members: key, value }
    }
    return this.#collective.value
  }

  /** True if this rank still has what `ring` and `collective` were called for. If a rank lost it, all ranks start again. */
  get generation(): string {
    return `${this.#ring?.bytes ?? 0}/${this.#collective?.members ?? ''}`
  }

  /**
   * Releases the ring's memory, and begins to leave the collective, which may take a while (NCCL needs half a second):
   * {@link release} waits for its end. Called after a successful update.
   */
  async releaseLater(): Promise<void> {
    const collective = this.#collective
    const ring = this.#ring
    this.#collective = undefined
    this.#ring = undefined
    if (collective !== undefined) {
      const left = collective.value.close().finally(() => this.#leaving.delete(left))
      left.catch(() => undefined) // reported to those that wait for it
      this.#leaving.add(left)
    }
    await ring?.close()
  }

  async release(): Promise<void> {
    const leaving = [...this.#leaving]
    const collective = this.#collective
    const ring = this.#ring
    this.#collective = undefined
    this.#ring = undefined
    try {
      await collective?.value.close()
    } finally {
      await ring?.close()
      await Promise.all(leaving)
    }
  }
}
