import {
  CkptError,
  type DirectCopies,
  type DirectDevice,
  type DirectJob,
  type DirectStats,
  type ForeignMemory,
  type HostMemory,
  type MappedStorages,
  type StridedCopy,
  type WorkerStorage,
} from '@ckpt/contract'
import type { CudaDeviceHandle, CudaDeviceInfo, CudaDirectHandle, CudaSourceHandle } from '@ckpt/native-cuda'
import { onAbort } from '@ckpt/utils'
import { native } from '../addon.ts'
import { destinationOf, sourceOf, storageAt } from '../storage-at.ts'
import { cudaAddon, probeCuda } from './addon.ts'
import type { CudaHost } from './host.ts'
import { cudaMemory, type CudaHostMemory } from './memory.ts'

/** Minimum size of runs for the copy engine: shorter ones cost it more than they cost the kernel. */
const ENGINE_BYTES = 256 * 1024

/**
 * Parameters in GPU memory, mapped by CUDA IPC: the copy engine handles long runs and wide rows, a kernel that reads pinned
 * memory handles the rest.
 */
export class CudaDirect implements DirectDevice {
  readonly how = `runs of ${ENGINE_BYTES / 1024} KiB and more by the copy engine in batches, rows off lines of memory by two-dimensional copies, the others by a gathering kernel`
  readonly #device: CudaDeviceHandle
  readonly #info: CudaDeviceInfo
  readonly #host: CudaHost

  constructor(device: CudaDeviceHandle, info: CudaDeviceInfo, host: CudaHost) {
    this.#device = device
    this.#info = info
    this.#host = host
  }

  async reaches(deviceUuids: readonly string[]): Promise<boolean> {
    const { devices } = await probeCuda()
    return deviceUuids.every((uuid) => {
      const other = devices.find((device) => device.uuid === uuid)
      return other !== undefined && (uuid === this.#info.uuid || this.#info.peerAccess[other.index] === true)
    })
  }

  async map(storages: readonly WorkerStorage[]): Promise<CudaStorages> {
    const opened = new Map<string, { source: CudaSourceHandle; bytes: number }>()
    try {
      const places = []
      for (const [index, { handle: storage, what }] of storages.entries()) {
        if (storage.kind !== 'cuda') {
          throw new CkptError('MEMORY_REFUSED', `${what} is a ${storage.kind}, not GPU memory`, {
            fields: { field: 'storages', storage: index },
          })
        }
        const handle = Buffer.from(storage.handle.buffer, storage.handle.byteOffset, storage.handle.byteLength)
        const key = handle.toString('latin1')
        let mapped = opened.get(key)
        if (mapped === undefined) {
          mapped = await native(() => cudaAddon().openForeign(this.#device, handle)).catch((error: unknown) => {
            throw CkptError.from(error, 'NATIVE_FAILURE', 'mapping parameters', { storage: index })
          })
          opened.set(key, mapped)
        }
        if (storage.offset + storage.bytes > mapped.bytes) {
          throw new CkptError('MEMORY_REFUSED', `${what} leaves its allocation of ${mapped.bytes} bytes`, {
            fields: { field: 'storages', storage: index },
          })
        }
        places.push({ source: mapped.source, offset: storage.offset, bytes: storage.bytes })
      }
      return new CudaStorages(
        [...opened.values()].map(({ source }) => source),
        places,
      )
    } catch (error) {
      await closeSources([...opened.values()].map(({ source }) => source))
      throw error
    }
  }

  /** Mapped and pinned for this GPU. */
  mapMemory(memory: ForeignMemory, what: string): Promise<HostMemory> {
    return this.#host.openForeign(memory, { what, lock: true })
  }

  async prepare(job: DirectCopies): Promise<DirectJob> {
    if (!(job.storages instanceof CudaStorages)) {
      throw new CkptError('INVALID_ARGUMENT', 'the storages were not mapped by a GPU', { fields: { field: 'storages' } })
    }
    const { places, sources } = job.storages
    const indexOf = new Map(sources.map((source, index) => [source, index]))
    /** Replaces storages by their mappings in destinations, and in sources if those are storages too. */
    const intoMapped = (copy: StridedCopy): StridedCopy => {
      const { source, offset } = storageAt(places, copy, destinationOf(copy))
      return { ...copy, destination: indexOf.get(source)!, destinationOffset: offset + copy.destinationOffset }
    }
    const outOfMapped = (copy: StridedCopy): StridedCopy => {
      const { source, offset } = storageAt(places, copy, sourceOf(copy))
      return { ...copy, source: indexOf.get(source)!, sourceOffset: offset + copy.sourceOffset }
    }
    const used: CudaHostMemory[] = []
    const free = () => used.splice(0).forEach((memory) => memory.done())
    try {
      const registrations = job.memories.map(cudaMemory).map((memory) => {
        if (!memory.locked) {
          const why = memory.lockError === undefined ? '' : `: ${memory.lockError}`
          throw new CkptError('UNSUPPORTED', `host memory is not pinned, GPUs cannot read it${why}`)
        }
        const registration = memory.use()
        used.push(memory)
        return registration
      })
      const { engineBytes, together } = tuning()
      const handle = await native(() =>
        cudaAddon().prepareDirect(
          this.#device,
          registrations,
          sources,
          job.copies.map(intoMapped).columns,
          job.forwards.map((copy) => outOfMapped(intoMapped(copy))).columns,
          engineBytes,
          together,
        ),
      )
      return new CudaDirectJob(handle, free)
    } catch (error) {
      free()
      throw error
    }
  }
}

/** Checked again after a wait, in which it may have arrived. */
function abortOf(signal: AbortSignal): CkptError | undefined {
  return signal.aborted ? CkptError.from(signal.reason, 'ABORTED') : undefined
}

/** Returns how copies are split; the environment can change it for measurements. */
function tuning(): { engineBytes: number; together: boolean } {
  const bytes = Number(process.env['CKPT_DIRECT_ENGINE_BYTES'] ?? ENGINE_BYTES)
  return {
    engineBytes: Number.isSafeInteger(bytes) && bytes > 0 ? bytes : ENGINE_BYTES,
    // On two H200s running kernel and copy engine in parallel took 3 % longer than one after the other.
    together: process.env['CKPT_DIRECT_TOGETHER'] === '1',
  }
}

class CudaStorages implements MappedStorages {
  readonly sources: readonly CudaSourceHandle[]
  readonly places: readonly { readonly source: CudaSourceHandle; readonly offset: number; readonly bytes: number }[]

  constructor(sources: readonly CudaSourceHandle[], places: CudaStorages['places']) {
    this.sources = sources
    this.places = places
  }

  close(): Promise<void> {
    return closeSources(this.sources)
  }
}

async function closeSources(sources: readonly CudaSourceHandle[]): Promise<void> {
  await Promise.all(sources.map((source) => native(() => cudaAddon().closeSource(source))))
}

class CudaDirectJob implements DirectJob {
  readonly #handle: CudaDirectHandle
  readonly #free: () => void
  #running: Promise<unknown> | undefined

  constructor(handle: CudaDirectHandle, free: () => void) {
    this.#handle = handle
    this.#free = free
  }

  async run(signal: AbortSignal): Promise<DirectStats> {
    if (this.#running) throw new CkptError('INVALID_STATE', 'the direct job is already running')
    if (signal.aborted) throw CkptError.from(signal.reason, 'ABORTED')
    const addon = cudaAddon()
    const cancellation = addon.newCancellation()
    const stopListening = onAbort(signal, () => addon.cancel(cancellation))
    const running = native(() => addon.runDirect(this.#handle, cancellation))
    this.#running = running.catch(() => undefined)
    try {
      return await running
    } catch (error) {
      throw abortOf(signal) ?? error
    } finally {
      stopListening()
      this.#running = undefined
    }
  }

  async close(): Promise<void> {
    await this.#running
    await native(() => cudaAddon().closeDirect(this.#handle))
    this.#free()
  }
}
