import { CkptError, type HostMemory } from '@ckpt/contract'
import type { CudaDeviceHandle, CudaRegistrationHandle } from '@ckpt/native-cuda'
import { native } from '../addon.ts'
import { NativeHostMemory, nativeMemory } from '../host/memory.ts'
import { cudaAddon } from './addon.ts'

/** Views handed to the addon, in bytes: a host memory's views are cheap up to this length. */
const VIEW_BYTES = 2 ** 30

/**
 * Host memory that a GPU copies from. It is unregistered, and only then unmapped and its views detached, soon after `close`, once
 * no pipeline uses it any more.
 */
export class CudaHostMemory extends NativeHostMemory {
  readonly #registration: CudaRegistrationHandle
  readonly #pinned: boolean
  readonly #problem: string | undefined
  readonly #closing: (closed: Promise<void>) => void
  #users = 0
  #closed = false

  constructor(
    memory: HostMemory,
    registered: { registration: CudaRegistrationHandle; pinned: boolean; problem: string | undefined },
    closing: (closed: Promise<void>) => void,
  ) {
    super(nativeMemory(memory))
    this.#registration = registered.registration
    this.#pinned = registered.pinned
    this.#problem = registered.problem
    this.#closing = closing
  }

  /** Whether the pages are pinned for the GPU. */
  override get locked(): boolean {
    return this.#pinned && !this.#closed
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

  /** For a pipeline that is about to use the memory: it stays until as many {@link done} calls. */
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

/** `memory` known to the driver, and pinned where `pin` says so. On a failure the memory is closed. */
export async function registerMemory(
  device: CudaDeviceHandle,
  memory: HostMemory,
  options: { pin: boolean; threads?: number | undefined },
  closing: (closed: Promise<void>) => void,
): Promise<CudaHostMemory> {
  try {
    const views: Buffer[] = []
    for (let at = 0; at < memory.bytes; at += VIEW_BYTES) views.push(memory.view(at, Math.min(VIEW_BYTES, memory.bytes - at)))
    const registered = await native(() => cudaAddon().registerHost(device, views, options.threads, options.pin))
    return new CudaHostMemory(memory, registered, closing)
  } catch (error) {
    memory.close()
    throw error
  }
}

/** A pipeline's source. @throws CkptError `INVALID_ARGUMENT` for memory of another host. */
export function cudaMemory(memory: HostMemory): CudaHostMemory {
  if (memory instanceof CudaHostMemory) return memory
  throw new CkptError('INVALID_ARGUMENT', 'the source was not made by the host of a CUDA device', {
    fields: { field: 'sources' },
  })
}
