import {
  CkptError,
  STRIDED_COPY_COLUMNS,
  type DirectCopies,
  type DirectDevice,
  type DirectJob,
  type DirectStats,
  type Host,
  type HostMemory,
  type MappedStorages,
  type StorageHandle,
} from '@ckpt/contract'

/** Column of a flat copy that holds the source's offset, and the destination's index and offset. */
const SOURCE = 0
const SOURCE_OFFSET = 1
const DESTINATION = 3
const DESTINATION_OFFSET = 4

/** Parameters in shared memory, by plain copies on the host's threads. */
export class HostDirect implements DirectDevice {
  readonly how = 'memory copies'
  readonly #host: Host
  readonly #threads: number | undefined

  constructor(host: Host, threads: number | undefined) {
    this.#host = host
    this.#threads = threads
  }

  /** Other engine workers of this machine have their parameters in shared memory, too. */
  reaches(): Promise<boolean> {
    return Promise.resolve(true)
  }

  async map(handles: readonly StorageHandle[]): Promise<HostStorages> {
    const opened = new Map<string, HostMemory>()
    try {
      const places = []
      for (const [index, handle] of handles.entries()) {
        if (handle.kind !== 'file') {
          throw new CkptError('INVALID_ARGUMENT', `storage ${index} is ${handle.kind} memory, not shared memory of this host`, {
            fields: { field: 'storages', storage: index },
          })
        }
        let memory = opened.get(handle.path)
        if (memory === undefined) {
          memory = await this.#host.mapFile(handle.path, { lock: false }).catch((error: unknown) => {
            throw CkptError.from(error, 'NATIVE_FAILURE', `mapping parameters at ${handle.path}`, { storage: index })
          })
          opened.set(handle.path, memory)
        }
        if (handle.offset + handle.bytes > memory.bytes) {
          throw new CkptError('INVALID_ARGUMENT', `storage ${index} leaves its memory of ${memory.bytes} bytes`, {
            fields: { field: 'storages', storage: index },
          })
        }
        places.push({ memory, offset: handle.offset, bytes: handle.bytes })
      }
      return new HostStorages([...opened.values()], places)
    } catch (error) {
      for (const memory of opened.values()) memory.close()
      throw error
    }
  }

  mapMemory(path: string): Promise<HostMemory> {
    return this.#host.mapFile(path, { lock: false })
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
  readonly #copies: Float64Array
  readonly #forwards: Float64Array
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
    this.#copies = job.copies.slice()
    this.#forwards = job.forwards.slice()
    for (const rows of [this.#copies, this.#forwards]) {
      for (let at = 0; at < rows.length; at += STRIDED_COPY_COLUMNS) {
        moveIn(rows, at + DESTINATION, at + DESTINATION_OFFSET, places, first)
        if (rows === this.#forwards) moveIn(rows, at + SOURCE, at + SOURCE_OFFSET, places, first)
      }
    }
  }

  async run(signal: AbortSignal): Promise<DirectStats> {
    if (this.#running) throw new CkptError('INVALID_STATE', 'the direct job is running already')
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

/** From an index of a storage to that of its memory. */
function moveIn(rows: Float64Array, index: number, offset: number, places: readonly Place[], first: number): void {
  const storage = rows[index]!
  const place = places[storage]
  if (place === undefined) {
    throw new CkptError('INVALID_ARGUMENT', `there is no storage ${storage} among ${places.length}`, {
      fields: { field: 'storage' },
    })
  }
  rows[index] = first + storage
  rows[offset]! += place.offset
}

function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw CkptError.from(signal.reason, 'ABORTED')
}
