import { availableParallelism } from 'node:os'
import type {
  AllocateOptions,
  FileReadRequest,
  ForeignMemory,
  Host,
  HostMemory,
  MemoryLimit,
  MemoryRange,
  FileReadStats,
  TransferStats,
  StridedCopies,
} from '@ckpt/contract'
import type { CudaDeviceHandle } from '@ckpt/native-cuda'
import pLimit from 'p-limit'
import { registerMemory, type Pinning } from './memory.ts'
import { readAndPin } from './read-and-pin.ts'

/**
 * Default number of threads that read into memory that is pinned afterwards, or put its pages into the page table: half the
 * cores, because there is one rank per GPU.
 */
const THREADS = Math.max(1, Math.min(16, Math.floor(availableParallelism() / 2)))

/**
 * The driver pins pages as if it would write to them: it would pin copies of a private mapping. So memory that a GPU reads is
 * mapped writable, after the same checks.
 */
const PINNABLE = { writable: true } as const

/**
 * A {@link Host} whose memory is pinned for a GPU, and comes from the memory node next to it; everything else is the same as
 * for the plain host.
 */
export class CudaHost implements Host {
  readonly #host: Host
  readonly #device: CudaDeviceHandle
  readonly #place: Pick<AllocateOptions, 'numaNode'>
  readonly #pinning: Pinning = { threads: THREADS, populate: pLimit(1), pin: pLimit(1) }
  readonly #closing = new Set<Promise<void>>()

  /** `numaNode`: that of the GPU, or -1. */
  constructor(host: Host, device: CudaDeviceHandle, numaNode: number) {
    this.#host = host
    this.#device = device
    this.#place = numaNode < 0 ? {} : { numaNode }
  }

  availableBytes(): number {
    return this.#host.availableBytes?.() ?? Infinity
  }

  memoryLimits(): readonly MemoryLimit[] {
    return this.#host.memoryLimits?.() ?? []
  }

  async allocate(options: AllocateOptions): Promise<HostMemory> {
    const memory = await this.#host.allocate({ ...this.#place, hugePages: true, ...options, lock: false })
    // Untouched memory is pinned slice by slice while it is filled (`read`), because the driver would touch it on one thread.
    return this.#register(memory, options.lock ?? true, options.prefault === false)
  }

  async createShared(name: string, options: AllocateOptions): Promise<HostMemory> {
    const memory = await this.#host.createShared(name, { ...this.#place, ...options, lock: false })
    try {
      return await this.#register(memory, options.lock ?? true)
    } catch (error) {
      memory.unlink()
      throw error
    }
  }

  async openShared(name: string): Promise<HostMemory> {
    return this.#register(await this.#host.openShared(name, PINNABLE), true)
  }

  async openForeign(memory: ForeignMemory, options: { what: string; lock?: boolean }): Promise<HostMemory> {
    return this.#register(await this.#host.openForeign(memory, { ...options, ...PINNABLE, lock: false }), options.lock ?? false)
  }

  async mapFile(path: string, options: { lock?: boolean } = {}): Promise<HostMemory> {
    return this.#register(await this.#host.mapFile(path, { ...PINNABLE, lock: false }), options.lock ?? false)
  }

  openBeneath(directory: number, path: string): Promise<number> {
    return this.#host.openBeneath!(directory, path)
  }

  read(request: FileReadRequest): Promise<FileReadStats> {
    return readAndPin(this.#host, { threads: THREADS, ...request })
  }

  copy(memories: readonly HostMemory[], copies: StridedCopies, options?: { threads?: number }): Promise<TransferStats> {
    return this.#host.copy(memories, copies, options)
  }

  digest(
    memories: readonly HostMemory[],
    ranges: readonly MemoryRange[],
    options?: { threads?: number },
  ): Promise<BigUint64Array> {
    return this.#host.digest(memories, ranges, options)
  }

  sums(
    memories: readonly HostMemory[],
    rows: Float64Array,
    outputs: number,
    options?: { threads?: number },
  ): Promise<BigUint64Array> {
    return this.#host.sums(memories, rows, outputs, options)
  }

  fill(memory: HostMemory, options: { offset?: number; bytes?: number; seed: bigint; threads?: number }): Promise<void> {
    return this.#host.fill(memory, options)
  }

  /** The driver must release memory first, which takes it 30 ms per GB. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#closing)
  }

  #register(memory: HostMemory, pin: boolean, later = false): Promise<HostMemory> {
    const options = { pinning: pin ? this.#pinning : undefined, later }
    return registerMemory(this.#device, memory, options, (closed) => {
      const tracked = closed.finally(() => this.#closing.delete(tracked))
      // A failed unregistration has no caller left; the memory is then released with the process.
      tracked.catch(() => undefined)
      this.#closing.add(tracked)
    })
  }
}
