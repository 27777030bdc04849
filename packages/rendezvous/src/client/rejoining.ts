import type { Blob, CallOptions, CkptError, Epoch, GatherOptions, RankReport, Rendezvous } from '@ckpt/contract'

import type { RankRendezvous } from './rendezvous.ts'

/** Joins as a new incarnation, in a world of the previous size. */
type Rejoin = (options: CallOptions & { readonly worldSize: number }) => Promise<RankRendezvous>

/**
 * A membership that is renewed. If it was lost (the rank was silent too long, or there is a new coordinator), the next call
 * joins again as a new incarnation, within that call's deadline. Calls that were running when it was lost fail, unless the
 * coordinator had been silent since before they began; its epochs stay aborted.
 */
export class RejoiningRendezvous implements Rendezvous {
  readonly #join: Rejoin
  readonly #timeoutMs: number
  /** Membership of each epoch: a new coordinator may assign the same number again. */
  readonly #epochs = new WeakMap<Epoch, RankRendezvous>()
  #member: RankRendezvous
  #joining: Promise<RankRendezvous> | undefined
  #closed = false

  constructor(member: RankRendezvous, timeoutMs: number, join: Rejoin) {
    this.#member = member
    this.#timeoutMs = timeoutMs
    this.#join = join
  }

  get rank(): number {
    return this.#member.rank
  }

  get worldSize(): number {
    return this.#member.worldSize
  }

  get lost(): CkptError | undefined {
    return this.#member.lost
  }

  get lossMs(): number {
    return this.#member.lossMs
  }

  allGather<T>(key: string, value: T, options?: GatherOptions): Promise<T[]> {
    return this.#call(options, (member, left) => member.allGather(key, value, left))
  }

  allGatherBlobs(key: string, blob: Blob, options?: GatherOptions): Promise<Blob[]> {
    return this.#call(options, (member, left) => member.allGatherBlobs(key, blob, left))
  }

  publish(key: string, payload: Uint8Array): void {
    this.#member.publish(key, payload)
  }

  report(payload: Uint8Array): void {
    this.#member.report(payload)
  }

  reports(options?: CallOptions): Promise<RankReport[]> {
    return this.#member.reports(options)
  }

  barrier(key: string, options?: GatherOptions): Promise<void> {
    return this.#call(options, (member, left) => member.barrier(key, left))
  }

  async beginEpoch(options?: GatherOptions): Promise<Epoch> {
    return this.#call(options, async (member, left) => {
      const epoch = await member.beginEpoch(left)
      this.#epochs.set(epoch, member)
      return epoch
    })
  }

  endEpoch(epoch: Epoch): void {
    this.#epochs.get(epoch)?.endEpoch(epoch)
  }

  abortEpoch(epoch: Epoch, error: CkptError): void {
    this.#epochs.get(epoch)?.abortEpoch(epoch, error)
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#joining?.catch(() => undefined)
    await this.#member.close()
  }

  async #call<T>(
    options: GatherOptions = {},
    work: (member: RankRendezvous, options: GatherOptions) => Promise<T>,
  ): Promise<T> {
    const began = performance.now()
    const deadline = began + (options.timeoutMs ?? this.#timeoutMs)
    const whole = { ...options, timeoutMs: options.timeoutMs ?? this.#timeoutMs }
    const left = () => ({ ...options, timeoutMs: Math.max(1, deadline - performance.now()) })
    const before = this.#member
    // Within an epoch a call cannot continue after a loss.
    const renewable = options.epoch === undefined && !this.#closed
    if (before.lost === undefined || !renewable) {
      try {
        return await work(before, whole)
      } catch (error) {
        const { lost } = before
        if (!renewable || lost === undefined || error !== lost) throw error
        // A new coordinator answers at once that it does not know this rank, and a silent one has answered nobody: nothing is
        // lost.
        if (lost.fields['rejoin'] !== true && !before.silentBy(began)) throw lost
      }
    }
    return work(await this.#renewed(before, left()), left())
  }

  #renewed(before: RankRendezvous, options: CallOptions): Promise<RankRendezvous> {
    if (this.#member !== before) return Promise.resolve(this.#member)
    this.#joining ??= this.#replace(before, options).finally(() => (this.#joining = undefined))
    return this.#joining
  }

  async #replace(before: RankRendezvous, { timeoutMs, signal }: CallOptions): Promise<RankRendezvous> {
    await before.close()
    this.#member = await this.#join({
      worldSize: before.worldSize,
      ...(timeoutMs !== undefined && { timeoutMs }),
      ...(signal && { signal }),
    })
    return this.#member
  }
}
