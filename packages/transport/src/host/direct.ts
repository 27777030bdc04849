import {
  CkptError,
  memoryPlace,
  type DirectCopies,
  type DirectDevice,
  type DirectJob,
  type DirectStats,
  type ForeignMemory,
  type Host,
  type HostMemory,
  type MappedStorages,
  type StridedCopies,
  type StridedCopy,
  type WorkerStorage,
} from '@ckpt/contract'
import { destinationOf, sourceOf, storageAt } from '../storage-at.ts'

/** Parameters in shared memory, by plain copies on the host's threads. */
export class HostDirect implements DirectDevice {
  readonly how = 'memory copies'
  readonly #host: Host
  readonly #threads: number | undefined

  constructor(host: Host, threads: number | undefined) {
    this.#host = host
    this.#threads = threads
  }

  /** Other engine workers of this machine also have their parameters in shared memory. */
  reaches(): Promise<boolean> {
    return Promise.resolve(true)
  }

  async map(storages: readonly WorkerStorage[]): Promise<HostStorages> {
    const opened = new Map<string, HostMemory>()
    try {
      const places = []
      for (const [index, { handle, process, what }] of storages.entries()) {
        const fields = { field: 'storages', storage: index }
        if (handle.kind !== 'file') {
          throw new CkptError('MEMORY_REFUSED', `${what} is ${handle.kind} memory, not shared memory of this host`, { fields })
        }
        const { path, offset, bytes, device, inode, size } = handle
        if (device === undefined || inode === undefined || size === undefined) {
          const text = `${what} at ${path} lacks device, inode and size: update the engine's worker package`
          throw new CkptError('MEMORY_REFUSED', text, { fields })
        }
        const key = JSON.stringify([path, device, inode, size, process])
        let memory = opened.get(key)
        if (memory === undefined) {
          const foreign = { place: memoryPlace(path, process, what), identity: { device, inode, bytes: size } }
          memory = await this.#host.openForeign(foreign, { what, writable: true })
          opened.set(key, memory)
        }
        if (offset + bytes > memory.bytes) {
          throw new CkptError(
            'MEMORY_REFUSED',
            `${what} ends at ${offset + bytes}, outside its memory of ${memory.bytes} bytes`,
            {
              fields,
            },
          )
        }
        places.push({ memory, offset, bytes })
      }
      return new HostStorages([...opened.values()], places)
    } catch (error) {
      for (const memory of opened.values()) memory.close()
      throw error
    }
  }

  mapMemory(memory: ForeignMemory, what: string): Promise<HostMemory> {
    return this.#host.openForeign(memory, { what })
  }

  prepare(copies: DirectCopies): Promise<DirectJob> {
    return Promise.resolve(new HostDirectJob(this.#host, this.#threads, copies))
  }
}

interface Place {
  readonly memory: HostMemory
  readonly offset: number
  readonly bytes: number
}

/** Parameters of engine workers of this machine. */
export class HostStorages implements MappedStorages {
  readonly places: readonly Place[]
  readonly #memories: readonly HostMemory[]

  constructor(memories: readonly HostMemory[], places: readonly Place[]) {
    this.#memories = memories
    this.places = places
  }

  close(): Promise<void> {
    for (const memory of this.#memories) memory.close()
    return Promise.resolve()
  }
}

class HostDirectJob implements DirectJob {
  readonly #host: Host
  readonly #threads: number | undefined
  readonly #memories: readonly HostMemory[]
  readonly #copies: StridedCopies
  readonly #forwards: StridedCopies
  #running = false

  constructor(host: Host, threads: number | undefined, job: DirectCopies) {
    if (!(job.storages instanceof HostStorages)) {
      throw new CkptError('INVALID_ARGUMENT', 'the storages were not mapped by this device', { fields: { field: 'storages' } })
    }
    const { places } = job.storages
    const first = job.memories.length
    this.#host = host
    this.#threads = threads
    this.#memories = [...job.memories, ...places.map(({ memory }) => memory)]
    this.#copies = job.copies.map((copy) => intoMemory(copy, places, first))
    this.#forwards = job.forwards.map((copy) => outOfMemory(intoMemory(copy, places, first), places, first))
  }

  async run(signal: AbortSignal): Promise<DirectStats> {
    if (this.#running) throw new CkptError('INVALID_STATE', 'the direct job is already running')
    this.#running = true
    try {
      throwIfAborted(signal)
      const threads = this.#threads === undefined ? {} : { threads: this.#threads }
      const h2d = await this.#host.copy(this.#memories, this.#copies, threads)
      throwIfAborted(signal)
      const forward = await this.#host.copy(this.#memories, this.#forwards, threads)
      return {
        h2dMs: h2d.milliseconds,
        forwardMs: forward.milliseconds,
        h2dBytes: h2d.bytes,
        forwardBytes: forward.bytes,
        spans: Float64Array.of(
          ...[0, 0, 0, h2d.milliseconds],
          ...[1, 0, h2d.milliseconds, h2d.milliseconds + forward.milliseconds],
        ),
      }
    } finally {
      this.#running = false
    }
  }

  close(): Promise<void> {
    return Promise.resolve()
  }
}

/** Replaces a copy's destination storage by its memory; memories of storages begin at `first`. */
function intoMemory(copy: StridedCopy, places: readonly Place[], first: number): StridedCopy {
  const { offset } = storageAt(places, copy, destinationOf(copy))
  return { ...copy, destination: first + copy.destination, destinationOffset: offset + copy.destinationOffset }
}

/** The same for its source. */
function outOfMemory(copy: StridedCopy, places: readonly Place[], first: number): StridedCopy {
  const { offset } = storageAt(places, copy, sourceOf(copy))
  return { ...copy, source: first + copy.source, sourceOffset: offset + copy.sourceOffset }
}

function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw CkptError.from(signal.reason, 'ABORTED')
}
