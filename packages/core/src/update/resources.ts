import type { Collective, Device, Exchange, Ring } from '@ckpt/contract'

/** The ring and the collective of one rank: made for an update, kept for the next one or released. */
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

  /** A ring of exactly `bytes`: the kept one where it has that size. */
  async ring(bytes: number): Promise<Ring> {
    if (this.#ring?.bytes !== bytes) {
      await this.#ring?.close()
      this.#ring = undefined
      this.#ring = await this.#device.createRing(bytes)
    }
    return this.#ring
  }

  /**
   * The collective of `members`: the kept one where the members are the same. `exchange` is used now and by later runs of it, until
   * the next call.
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

  /** Whether this rank still has what `ring` and `collective` were called for. A rank that lost it makes all others start again. */
  get generation(): string {
    return `${this.#ring?.bytes ?? 0}/${this.#collective?.members ?? ''}`
  }

  /**
   * Gives the ring's memory back, and begins to leave the collective, which may take a while (NCCL's farewell takes half a second):
   * {@link release} waits for its end. For after an update that went well.
   */
  async releaseLater(): Promise<void> {
    const collective = this.#collective
    const ring = this.#ring
    this.#collective = undefined
    this.#ring = undefined
    if (collective !== undefined) {
      const left = collective.value.close().finally(() => this.#leaving.delete(left))
      left.catch(() => undefined) // whoever waits for it sees it
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
