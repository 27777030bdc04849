import { CkptError, type HostMemory } from '@ckpt/contract'
import type { CudaDeviceHandle, CudaRegistrationHandle } from '@ckpt/native-cuda'
import type { LimitFunction } from 'p-limit'
import { hostAddon, native, nativeSync } from '../addon.ts'
import { NativeHostMemory, nativeMemory } from '../host/memory.ts'
import { cudaAddon } from './addon.ts'

/** Bytes that are pinned at a time; the addon's slices. */
export const SLICE_BYTES = 2 ** 28

/** Options for pinning a host's memory. */
export interface Pinning {
  /** Threads that put pages into the page table. */
  readonly threads: number
  /** One slice after the other: several threads at once are no faster, and slower if the driver has to look up each page. */
  readonly populate: LimitFunction
  readonly pin: LimitFunction
}

/**
 * Host memory that a GPU copies from. It is unregistered, and only then unmapped and its views detached, soon after `close`, once
 * no pipeline uses it any more.
 */
export class CudaHostMemory extends NativeHostMemory {
  readonly #registration: CudaRegistrationHandle
  readonly #pinning: Pinning | undefined
  readonly #closing: (closed: Promise<void>) => void
  /** Slices that are pinned, or being pinned. */
  readonly #slices = new Map<number, Promise<void>>()
  #problem: string | undefined
  #users = 0
  #closed = false

  constructor(
    memory: HostMemory,
    registration: CudaRegistrationHandle,
    pinning: Pinning | undefined,
    closing: (closed: Promise<void>) => void,
  ) {
    super(nativeMemory(memory))
    this.#registration = registration
    this.#pinning = pinning
    this.#closing = closing
  }

  /** Slices that are not pinned yet, ascending. */
  get unpinned(): number[] {
    if (this.#pinning === undefined) return []
    const count = Math.ceil(this.bytes / SLICE_BYTES)
    return Array.from({ length: count }, (_, slice) => slice).filter((slice) => !this.#slices.has(slice))
  }

  /** Pins one slice, once. A refusal of the driver is reported in `lockError`; the memory then works unpinned, slower. */
  pin(slice: number): Promise<void> {
    this.#assertOpen()
    let pinning = this.#slices.get(slice)
    if (pinning === undefined) {
      this.#users++ // the memory stays while the driver uses it
      pinning = this.#pin(slice).finally(() => this.done())
      this.#slices.set(slice, pinning)
    }
    return pinning
  }

  async #pin(slice: number): Promise<void> {
    const { threads, populate, pin } = this.#pinning!
    // The driver looks up pages that are not in the page table one by one: several threads put them there twice as fast, before
    // its turn.
    if (this.kind !== 'anonymous') {
      const offset = slice * SLICE_BYTES
      const bytes = Math.min(SLICE_BYTES, this.bytes - offset)
      await populate(() => native(() => hostAddon().populateRead(nativeMemory(this), offset, bytes, threads)))
    }
    const problem = await pin(() => native(() => cudaAddon().pinHost(this.#registration, slice, slice + 1, 1)))
    this.#problem ??= problem // not before it is known: slices wait for each other, and none may undo another one
  }

  /** True if the pages are pinned for the GPU. */
  override get locked(): boolean {
    return this.#pinning !== undefined && this.#problem === undefined && this.unpinned.length === 0 && !this.#closed
  }

  override get lockError(): string | undefined {
    return this.#problem
  }

  override view(offset: number, length: number): Buffer {
    this.#assertOpen()
    return super.view(offset, length)
  }

  override close(): void {
    if (this.#closed) return
    this.#closed = true
    if (this.#users === 0) this.#closing(this.#end())
  }

  /** Prepares for a pipeline that is about to use the memory: it stays until the same number of {@link done} calls. */
  use(): CudaRegistrationHandle {
    this.#assertOpen()
    this.#users++
    return this.#registration
  }

  done(): void {
    if (--this.#users === 0 && this.#closed) this.#closing(this.#end())
  }

  async #end(): Promise<void> {
    await native(() => cudaAddon().unregisterHost(this.#registration))
    super.close()
  }

  #assertOpen(): void {
    if (this.#closed) throw new CkptError('INVALID_STATE', 'the memory is closed', { fields: { field: 'memory' } })
  }
}

/**
 * Registers `memory` with the addon. With `pinning` its slices are pinned now or, if `later` is set, by the code that fills
 * them. On a failure the memory is closed.
 */
export async function registerMemory(
  device: CudaDeviceHandle,
  memory: HostMemory,
  options: { pinning?: Pinning | undefined; later?: boolean },
  closing: (closed: Promise<void>) => void,
): Promise<CudaHostMemory> {
  let registered: CudaHostMemory
  try {
    const views: Buffer[] = []
    for (let at = 0; at < memory.bytes; at += SLICE_BYTES) views.push(memory.view(at, Math.min(SLICE_BYTES, memory.bytes - at)))
    const registration = nativeSync(() => cudaAddon().registerHost(device, views, options.pinning !== undefined))
    registered = new CudaHostMemory(memory, registration, options.pinning, closing)
  } catch (error) {
    memory.close()
    throw error
  }
  if (options.later === true) return registered
  try {
    await Promise.all(registered.unpinned.map((slice) => registered.pin(slice)))
    return registered
  } catch (error) {
    registered.close()
    throw error
  }
}

/** Returns a pipeline's source. @throws CkptError `INVALID_ARGUMENT` for memory of a different host. */
export function cudaMemory(memory: HostMemory): CudaHostMemory {
  if (memory instanceof CudaHostMemory) return memory
  throw new CkptError('INVALID_ARGUMENT', 'the source was not made by the host of a CUDA device', {
    fields: { field: 'sources' },
  })
}
