import {
  CkptError,
  type Collective,
  type CollectiveOptions,
  type Device,
  type DeviceReadRequest,
  type HostMemory,
  type MemoryRange,
  type Ring,
  type TransferStats,
} from '@ckpt/contract'
import type { CudaDeviceHandle, CudaDeviceInfo } from '@ckpt/native-cuda'
import { native } from '../addon.ts'
import { createHost } from '../host/host.ts'
import { cudaAddon, probeCuda } from './addon.ts'
import { CudaCollective } from './collective.ts'
import { CudaDirect } from './direct.ts'
import { CudaHost } from './host.ts'
import { cudaMemory } from './memory.ts'
import { readDeviceMemory } from './reader.ts'
import { createCudaRing, cudaRing, type CudaRing } from './ring.ts'

/** Selects a GPU: by its index among those that CUDA_VISIBLE_DEVICES leaves, or by its UUID. */
export type CudaDeviceOptions = { readonly index: number } | { readonly uuid: string }

/**
 * Opens a GPU of this machine.
 *
 * @throws CkptError `ADDON_UNAVAILABLE` naming what is missing with the tried paths, `INVALID_ARGUMENT` if there is no such
 * GPU.
 */
export async function createCudaDevice(options: CudaDeviceOptions): Promise<CudaDevice> {
  const { driver, devices } = await probeCuda()
  if (!driver.available) throw new CkptError('ADDON_UNAVAILABLE', `CUDA cannot be used here: ${driver.problem}`)
  const info = devices.find((device) => ('uuid' in options ? device.uuid === options.uuid : device.index === options.index))
  if (info === undefined) {
    const wanted = 'uuid' in options ? options.uuid : String(options.index)
    throw new CkptError('INVALID_ARGUMENT', `no GPU ${wanted} among ${devices.map((device) => device.uuid).join(', ')}`, {
      fields: { field: 'uuid' in options ? 'uuid' : 'index' },
    })
  }
  return new CudaDevice(info, await native(() => cudaAddon().openDevice(info.index)))
}

/** A GPU: rings in its memory, shared by CUDA IPC; collectives over NCCL; host memory that is pinned for it. */
export class CudaDevice implements Device {
  readonly kind = 'cuda'
  // Two H200s, 2 x 8.6 GB: chunks of 32 and 64 MiB are within 2 to 4 % of the H2D ceiling, chunks of 8 MiB within 7 %. Six
  // buckets of 128 MiB (three rounds of two owners) leave room for NCCL's own buffers within 2 GiB.
  readonly preferred = { bucketBytes: 128 * 2 ** 20, chunkBytes: 32 * 2 ** 20 }
  readonly uuid: string
  readonly host: CudaHost
  readonly direct: CudaDirect
  /** Identity and location of the GPU. */
  readonly info: CudaDeviceInfo
  readonly #device: CudaDeviceHandle
  readonly #rings = new Set<CudaRing>()
  readonly #collectives = new Set<CudaCollective>()
  #closed = false

  /** @internal Use {@link createCudaDevice}. */
  constructor(info: CudaDeviceInfo, device: CudaDeviceHandle) {
    this.info = info
    this.uuid = info.uuid
    this.#device = device
    this.host = new CudaHost(createHost(), device, info.numaNode)
    this.direct = new CudaDirect(device, info, this.host)
  }

  memory(): Promise<{ free: number; total: number }> {
    this.#assertOpen()
    return native(() => cudaAddon().memoryInfo(this.#device))
  }

  async createRing(bytes: number): Promise<Ring> {
    this.#assertOpen()
    const ring = await createCudaRing(this.#device, this.uuid, bytes)
    for (const other of this.#rings) if (other.closed) this.#rings.delete(other)
    this.#rings.add(ring)
    return ring
  }

  async createCollective(options: CollectiveOptions): Promise<Collective> {
    this.#assertOpen()
    const collective = await CudaCollective.join(this.#device, this.uuid, options)
    for (const other of this.#collectives) if (other.closed) this.#collectives.delete(other)
    this.#collectives.add(collective)
    return collective
  }

  /**
   * Computes the 64-bit digest of ranges of a ring or of pinned host memory, on the GPU (docs/worker-protocol.md, "Digest");
   * `memory` of a range is an index into `places`.
   *
   * @throws CkptError `UNSUPPORTED` if the addon was built without kernels, `INVALID_ARGUMENT` for a range outside its place.
   */
  async digest(places: readonly (Ring | HostMemory)[], ranges: readonly MemoryRange[]): Promise<BigUint64Array> {
    this.#assertOpen()
    const rows = new Float64Array(ranges.length * 3)
    ranges.forEach((range, index) => rows.set([range.memory, range.offset, range.bytes], index * 3))
    return this.#onPlaces(places, (handles) => cudaAddon().digest(this.#device, handles, rows))
  }

  /**
   * Makes two-dimensional copies among rings and pinned host memory with one kernel: the flat form of `StridedCopy`
   * (`Host.copy`), indices into `places`. Sources and destinations must not overlap. Resolves to the bytes moved.
   *
   * @throws CkptError `UNSUPPORTED` if the addon was built without kernels, `INVALID_ARGUMENT` for a copy outside its place.
   */
  async copyStrided(places: readonly (Ring | HostMemory)[], copies: Float64Array): Promise<number> {
    this.#assertOpen()
    return this.#onPlaces(places, (handles) => cudaAddon().copyStrided(this.#device, handles, copies))
  }

  /** See `DeviceReader` of `@ckpt/contract`. The memory may be on any GPU that this process sees. */
  async readDevice(request: DeviceReadRequest): Promise<TransferStats> {
    this.#assertOpen()
    return readDeviceMemory({ uuid: this.uuid, handle: this.#device }, request)
  }

  /** Returns bytes of a ring, for checks. */
  async download(ring: Ring, offset: number, bytes: number): Promise<Buffer> {
    this.#assertOpen()
    return native(() => cudaAddon().download(cudaRing(ring).memory, offset, bytes))
  }

  /** Closes everything open that was created from this device, collectives first. Owners of host memory close it themselves. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await Promise.all([...this.#collectives].map((collective) => collective.close()))
    await Promise.all([...this.#rings].map((ring) => ring.close()))
    await this.host.settled()
    await native(() => cudaAddon().closeDevice(this.#device))
  }

  async #onPlaces<T>(
    places: readonly (Ring | HostMemory)[],
    work: (handles: (CudaRing['memory'] | ReturnType<ReturnType<typeof cudaMemory>['use']>)[]) => Promise<T>,
  ): Promise<T> {
    const memories: ReturnType<typeof cudaMemory>[] = []
    try {
      const handles = places.map((place) => {
        if ('handle' in place) return cudaRing(place).memory
        const memory = cudaMemory(place)
        const registration = memory.use()
        memories.push(memory)
        return registration
      })
      return await native(() => work(handles))
    } finally {
      for (const memory of memories) memory.done()
    }
  }

  #assertOpen(): void {
    if (this.#closed) throw new CkptError('INVALID_STATE', `device ${this.uuid} is closed`)
  }
}
