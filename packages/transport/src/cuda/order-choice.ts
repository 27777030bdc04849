import { CkptError, type CollectiveOptions, type Exchange, type PipelineJob, type PipelineOrder } from '@ckpt/contract'
import type { CudaDeviceHandle, CudaGroupHandle, CudaPipelineJob } from '@ckpt/native-cuda'
import { native } from '../addon.ts'
import { onAbort, withDeadline } from '@ckpt/utils'
import { cudaAddon } from './addon.ts'
import { busiestOwnerBytes, chooseOrder, type MeasureCandidates } from './order.ts'
import type { CudaRing } from './ring.ts'

/**
 * Orders that a device's groups have chosen, by the group's GPUs and the chunk size. Links do not change between updates, so a
 * group that is formed again need not measure again if all of its members remember the same.
 */
export class ChosenOrders {
  static readonly #devices = new WeakMap<CudaDeviceHandle, ChosenOrders>()
  readonly #orders = new Map<string, PipelineOrder>()

  static of(device: CudaDeviceHandle): ChosenOrders {
    let orders = ChosenOrders.#devices.get(device)
    if (orders === undefined) ChosenOrders.#devices.set(device, (orders = new ChosenOrders()))
    return orders
  }

  /** Orders that this member remembers, for the others to compare. */
  get remembered(): string[] {
    return [...this.#orders].map(([key, { name, chunkBytes }]) => `${key} ${name} ${chunkBytes}`)
  }

  /** Returns a view of what all members of a group remember alike. */
  shared(uuids: readonly string[], all: readonly (readonly string[])[]): SharedOrders {
    const group = uuids.join()
    const key = (chunkBytes: number) => `${group} ${chunkBytes}`
    return {
      get: (chunkBytes) => {
        const order = this.#orders.get(key(chunkBytes))
        if (order === undefined) return undefined
        const text = `${key(chunkBytes)} ${order.name} ${order.chunkBytes}`
        return all.every((one) => one.includes(text)) ? order : undefined
      },
      set: (chunkBytes, order) => void this.#orders.set(key(chunkBytes), order),
    }
  }
}

/** Orders of one group by chunk size. */
export interface SharedOrders {
  get(chunkBytes: number): PipelineOrder | undefined
  set(chunkBytes: number, order: PipelineOrder): void
}

/** Order of one member's runs: chosen together with the other members before the first run that is large enough, and kept. */
export class OrderChoice {
  readonly #group: CudaGroupHandle
  readonly #known: SharedOrders
  readonly #options: Pick<CollectiveOptions, 'exchange' | 'signal' | 'size'>
  /** Chosen order, for jobs with these chunks. */
  #chosen: { readonly chunkBytes: number; readonly order: PipelineOrder } | undefined
  #choosing: { readonly over: Promise<void>; readonly cancel: () => void } | undefined

  constructor(group: CudaGroupHandle, known: SharedOrders, options: Pick<CollectiveOptions, 'exchange' | 'signal' | 'size'>) {
    this.#group = group
    this.#known = known
    this.#options = options
  }

  /**
   * Returns the order for a job that is about to run; undefined if it is too small to measure. Measuring runs the job's
   * beginning through the ring, which must be empty; all members call this together.
   *
   * @throws CkptError the errors of a pipeline, and `ABORTED`; the group cannot be used any more then.
   */
  async of(ring: CudaRing, job: PipelineJob, flat: CudaPipelineJob): Promise<PipelineOrder | undefined> {
    if (this.#chosen?.chunkBytes !== job.chunkBytes) {
      const known = this.#known.get(job.chunkBytes)
      const order = known ?? (await this.#choose(ring, job, flat))
      if (order) this.#known.set(job.chunkBytes, order)
      this.#chosen = order && { chunkBytes: job.chunkBytes, order }
    }
    return this.#chosen?.order
  }

  /** Ends a running measurement; resolves when the GPU does nothing for it any more. */
  async cancel(): Promise<void> {
    this.#choosing?.cancel()
    await this.#choosing?.over
  }

  async #choose(ring: CudaRing, job: PipelineJob, flat: CudaPipelineJob): Promise<PipelineOrder | undefined> {
    const { signal, size } = this.#options
    const addon = cudaAddon()
    const cancellation = addon.newCancellation()
    const waiting = new AbortController()
    const cancel = (): void => {
      waiting.abort(CkptError.from(signal?.reason, 'ABORTED', 'choosing an order was aborted'))
      addon.cancel(cancellation)
    }
    const measure: MeasureCandidates = (candidates) => {
      const rows = candidates.flatMap(({ name, chunkBytes, bytes }) => [name === 'alternating' ? 1 : 0, chunkBytes, bytes])
      return native(() => addon.measureOrders(this.#group, ring.memory, flat, Float64Array.from(rows), cancellation))
    }
    const exchange: Exchange = (key, value) =>
      withDeadline(this.#options.exchange(key, value), {
        what: 'the other members to measure orders',
        timeoutMs: job.timeoutMs,
        signal: waiting.signal,
      })
    const stopListening = onAbort(signal, cancel)
    const part = { members: size, chunkBytes: job.chunkBytes, busiestOwnerBytes: busiestOwnerBytes(job.buckets, size) }
    const choosing = chooseOrder(part, measure, exchange)
    this.#choosing = {
      cancel,
      over: choosing.then(
        () => undefined,
        () => undefined,
      ),
    }
    try {
      return await choosing
    } catch (error) {
      throw waiting.signal.aborted ? waiting.signal.reason : error
    } finally {
      this.#choosing = undefined
      stopListening()
    }
  }
}
