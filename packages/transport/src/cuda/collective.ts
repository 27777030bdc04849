import {
  CkptError,
  type Collective,
  type CollectiveOptions,
  type PipelineJob,
  type PipelineOrder,
  type PipelineRun,
} from '@ckpt/contract'
import type { CudaDeviceHandle, CudaGroupHandle, CudaPipelineJob } from '@ckpt/native-cuda'
import { native } from '../addon.ts'
import { onAbort, withDeadline } from '@ckpt/utils'
import { flatJob } from '../flat-job.ts'
import { NativeRun, STATES } from '../pipeline-handle.ts'
import { cudaAddon } from './addon.ts'
import { cudaMemory } from './memory.ts'
import { ChosenOrders, OrderChoice, type SharedOrders } from './order-choice.ts'
import { cudaRing } from './ring.ts'

/** Time for leaving before NCCL is aborted instead. */
const LEAVE_MS = 5000

/** Data that the members exchange to form a group. */
interface Offer {
  readonly uuid: string
  /** NCCL's unique id, from the member at position 0. */
  readonly id: Uint8Array | undefined
  /** Orders that the member remembers from earlier groups. */
  readonly orders: readonly string[]
}

/** GPUs that broadcast buckets among each other with NCCL; a group of one has no communicator. */
export class CudaCollective implements Collective {
  readonly position: number
  readonly size: number
  readonly #group: CudaGroupHandle
  readonly #signal: AbortSignal | undefined
  readonly #order: OrderChoice
  #state: keyof typeof STATES = 'ready'
  #run: NativeRun | undefined
  #drained: Promise<void> = Promise.resolve()

  private constructor(options: CollectiveOptions, group: CudaGroupHandle, orders: SharedOrders) {
    this.position = options.position
    this.size = options.size
    this.#signal = options.signal
    this.#group = group
    this.#order = new OrderChoice(group, orders, options)
  }

  /**
   * Forms the group; all members do so together.
   *
   * @throws CkptError `INVALID_ARGUMENT` (two members on one GPU), `TIMEOUT`, `ABORTED`, `ADDON_UNAVAILABLE` naming what is missing.
   */
  static async join(device: CudaDeviceHandle, uuid: string, options: CollectiveOptions): Promise<CudaCollective> {
    const { position, size, exchange, signal, timeoutMs } = options
    if (!Number.isSafeInteger(size) || size < 1 || !Number.isSafeInteger(position) || position < 0 || position >= size) {
      throw new CkptError('INVALID_ARGUMENT', `position ${position} of ${size} members`, { fields: { field: 'position' } })
    }
    signal?.throwIfAborted()
    const addon = cudaAddon()
    const deadline = performance.now() + timeoutMs
    let id: Buffer | undefined
    const chosen = ChosenOrders.of(device)
    let orders = chosen.shared([uuid], [])
    if (size > 1) {
      const ncclId = position === 0 ? await native(() => addon.newUniqueId()) : undefined
      const offer: Offer = { uuid, id: ncclId, orders: chosen.remembered }
      const offers = await withDeadline(exchange('cuda-group', offer), {
        what: 'the other members to form a group',
        timeoutMs,
        signal,
      })
      id = agree(offers, size)
      orders = chosen.shared(
        offers.map((one) => one.uuid),
        offers.map((one) => one.orders),
      )
    }
    const cancellation = addon.newCancellation()
    const stopListening = onAbort(signal, () => addon.cancel(cancellation))
    try {
      const left = Math.max(1, Math.ceil(deadline - performance.now()))
      const group = await native(() => addon.joinGroup(device, id, size, position, left, cancellation))
      return new CudaCollective(options, group, orders)
    } catch (error) {
      throw signal?.aborted ? CkptError.from(signal.reason, 'ABORTED', 'forming a group') : error
    } finally {
      stopListening()
    }
  }

  get closed(): boolean {
    return this.#state === 'closed'
  }

  async run(job: PipelineJob): Promise<PipelineRun> {
    if (this.#state !== 'ready') throw new CkptError('INVALID_STATE', STATES[this.#state])
    const ring = cudaRing(job.ring)
    const { arriveIn, ...flat } = flatJob(job, this.position)
    if (arriveIn === 'ring') {
      throw new CkptError('UNSUPPORTED', 'bytes cannot arrive in the ring of a GPU: let them arrive in pinned memory')
    }
    const memories = job.sources.map(cudaMemory)
    const used: typeof memories = []
    const release = (): void => {
      for (const memory of used.splice(0)) memory.done()
    }
    let drained!: () => void
    const end = new Promise<void>((resolve) => {
      drained = resolve
    })
    this.#state = 'running'
    let run: NativeRun
    try {
      const sources = memories.map((memory) => {
        const handle = memory.use()
        used.push(memory)
        return handle
      })
      const native: CudaPipelineJob = { ...flat, arriveIn, size: this.size, sources, alternating: false }
      const order = this.size > 1 ? await this.#order.of(ring, job, native) : undefined
      if (this.closed) throw new CkptError('ABORTED', STATES.closed)
      const onDrained = (): void => {
        release()
        drained()
      }
      run = new NativeRun(
        (callbacks) =>
          cudaAddon().startPipeline(this.#group, ring.memory, inOrder(native, order), {
            ...callbacks,
            onFinished: (error, stats) => callbacks.onFinished(error, stats && { ...stats, ...(order && { order }) }),
            onDrained,
          }),
        job.onBucket,
      )
    } catch (error) {
      release()
      this.#end('failed')
      throw error
    }
    this.#run = run
    this.#drained = end
    const stopListening = run.abortOn(this.#signal)
    const settle = (state: 'ready' | 'failed'): void => {
      stopListening()
      this.#run = undefined
      this.#end(state)
    }
    run.finished.then(
      () => settle('ready'),
      () => settle('failed'),
    )
    return run
  }

  /** Ends a run, unless the collective was closed meanwhile. */
  #end(state: 'ready' | 'failed'): void {
    if (this.#state === 'running') this.#state = state
  }

  async close(): Promise<void> {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    const run = this.#run
    run?.abort(new CkptError('ABORTED', `member ${this.position} closed the collective`))
    await run?.finished.catch(() => undefined)
    await this.#order.cancel()
    await this.#drained
    await native(() => cudaAddon().leaveGroup(this.#group, LEAVE_MS))
  }
}

/** Returns the id with which all members join. */
function agree(offers: readonly Offer[], size: number): Buffer {
  if (offers.length !== size) throw new CkptError('INVALID_ARGUMENT', `${offers.length} members answered, not ${size}`)
  offers.forEach(({ uuid }, position) => {
    const first = offers.findIndex((other) => other.uuid === uuid)
    if (first === position) return
    throw new CkptError('INVALID_ARGUMENT', `members ${first} and ${position} are both on ${uuid}`, {
      fields: { device: uuid },
    })
  })
  const id = offers[0]?.id
  if (id === undefined) throw new CkptError('INVALID_ARGUMENT', 'member 0 sent no NCCL id', { fields: { peer: 'member 0' } })
  return Buffer.from(id)
}

function inOrder(job: CudaPipelineJob, order: PipelineOrder | undefined): CudaPipelineJob {
  return order === undefined ? job : { ...job, chunkBytes: order.chunkBytes, alternating: order.name === 'alternating' }
}
