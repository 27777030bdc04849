import { CkptError, type Ring, type RingHandle } from '@ckpt/contract'
import type { CudaDeviceHandle, CudaMemoryHandle } from '@ckpt/native-cuda'
import { native, nativeSync } from '../addon.ts'
import { cudaAddon } from './addon.ts'

/** A ring in device memory that a different process maps by CUDA IPC. */
export class CudaRing implements Ring {
  readonly bytes: number
  readonly handle: RingHandle & { readonly kind: 'cuda' }
  readonly memory: CudaMemoryHandle
  /** Device address in this process. */
  readonly pointer: bigint
  #closed: Promise<void> | undefined

  constructor(memory: CudaMemoryHandle, bytes: number, deviceUuid: string) {
    this.memory = memory
    this.bytes = bytes
    const { handle, offset, pointer } = nativeSync(() => cudaAddon().exportMemory(memory))
    this.pointer = pointer
    this.handle = { kind: 'cuda', handle, offset, bytes, deviceUuid }
  }

  get closed(): boolean {
    return this.#closed !== undefined
  }

  /** Resolves when the memory is free, unless a pipeline still uses it. Engine workers should have unmapped it before. */
  close(): Promise<void> {
    this.#closed ??= native(() => cudaAddon().freeMemory(this.memory))
    return this.#closed
  }
}

/** Creates a ring on a GPU. @throws CkptError `INVALID_ARGUMENT`, `OUT_OF_MEMORY` naming the size. */
export async function createCudaRing(device: CudaDeviceHandle, deviceUuid: string, bytes: number): Promise<CudaRing> {
  if (!Number.isSafeInteger(bytes) || bytes <= 0) {
    throw new CkptError('INVALID_ARGUMENT', `a ring of ${bytes} bytes`, { fields: { field: 'bytes' } })
  }
  const memory = await native(() => cudaAddon().allocate(device, bytes))
  try {
    return new CudaRing(memory, bytes, deviceUuid)
  } catch (error) {
    await native(() => cudaAddon().freeMemory(memory))
    throw error
  }
}

/**
 * Returns `ring` as one of ours. @throws CkptError `INVALID_ARGUMENT` for a ring of a different device, `INVALID_STATE` for a
 * closed one.
 */
export function cudaRing(ring: Ring): CudaRing {
  if (!(ring instanceof CudaRing)) {
    throw new CkptError('INVALID_ARGUMENT', 'the ring was not made by a CUDA device', { fields: { field: 'ring' } })
  }
  if (ring.closed) throw new CkptError('INVALID_STATE', 'the ring is closed', { fields: { field: 'ring' } })
  return ring
}
