import {
  CkptError,
  SteadyProgress,
  tensorTable,
  type DeviceReader,
  type Host,
  type HostMemory,
  type SegmentMeta,
  type TensorTable,
} from '@ckpt/contract'
import { onAbort } from '@ckpt/utils'
import { allocateAll, BlockPool, type PoolStats } from './block-pool.ts'
import { computeTableDigests } from './digests.ts'
import { checkCarried } from './carried.ts'
import { loadTensors, mapTensors, ownBlock, releaseAll, throwIfAborted, type LoadContext, type Loaded } from './load.ts'
import { registerFiles } from './register-files.ts'
import { Reservation } from './reservation.ts'
import { tensorSpecs, type CheckpointSource, type TensorSpec } from './source.ts'
import { withTrainer } from './trainer/register.ts'

/** Default size of the largest segment. */
export const DEFAULT_SEGMENT_BYTES = 8 * 1024 ** 3

export interface CheckpointStoreOptions {
  /** Largest segment in bytes (default 8 GiB); only a single larger tensor exceeds it. */
  readonly segmentBytes?: number
  /** Other ranks of this host can map the memory, as direct updates of several ranks require (default false). */
  readonly shareable?: boolean
  /** Lock memory by default (default true). If the system refuses, the memory is used unlocked. */
  readonly lock?: boolean
  /** Reads GPU memory into memory of the host (default: none; tensors on GPUs are refused). */
  readonly reader?: DeviceReader
  /** Called before idle memory of the shared pool is returned to the system, so that every user that still has it mapped releases it. */
  readonly beforeFree?: () => Promise<void>
}

export interface RegisterOptions {
  /**
   * `private` memory is released to the system on unregistering, `shared` blocks stay for the next checkpoint (default
   * private).
   */
  readonly pool?: 'shared' | 'private'
  /** Use files in /dev/shm, or shared memory given by name, in place (default false). */
  readonly inPlace?: boolean
  /** Remove files or shared memory used in place from the file system once registered (default false). */
  readonly removeFiles?: boolean
  /** Take only part `index` of `count` of the files: the part of this rank if all ranks are given the same files. */
  readonly share?: { readonly index: number; readonly count: number }
  /** Lock the memory (default: the setting of the store). Memory of the shared pool always follows the store. */
  readonly lock?: boolean
  /**
   * Compute the tensors' digests, which verify updates, while files are read (default true): otherwise they are computed on
   * first use, which takes a second pass over memory.
   */
  readonly digests?: boolean
  readonly signal?: AbortSignal
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void
}

/** Part of a checkpoint that this rank holds, as other ranks see it. */
export interface CheckpointMetas {
  readonly segments: readonly SegmentMeta[]
  /** Includes digests once they were computed. */
  readonly tensors: TensorTable
}

/** Holds a checkpoint's memory; it is not released before {@link Lease.release}, whatever happens to the checkpoint. */
export interface Lease extends Disposable {
  readonly checkpoint: string
  /** Memory by segment index; it may be larger than its segment. */
  readonly segments: readonly HostMemory[]
  /** Includes digests once they were computed. */
  readonly table: TensorTable
  /** Releases the lease; calling it again does nothing. */
  release(): void
}

interface Entry {
  readonly name: string
  readonly pooled: boolean
  readonly loaded: Loaded
  table: TensorTable
  digests: Promise<BigUint64Array> | undefined
  leases: number
  retired: boolean
}

/** The checkpoints that one rank holds in host memory. */
export class CheckpointStore {
  readonly #host: Host
  readonly #reader: DeviceReader | undefined
  readonly #lock: boolean
  readonly #shareable: boolean
  readonly #segmentBytes: number
  readonly #pool: BlockPool
  readonly #entries = new Map<string, Entry>()
  /** Running registrations, by name. */
  readonly #loading = new Map<string, { readonly abort: AbortController; readonly done: Promise<void> }>()
  #closed = false

  /** @throws CkptError `INVALID_ARGUMENT` if `segmentBytes` is not a whole number above 0. */
  constructor(host: Host, options: CheckpointStoreOptions = {}) {
    this.#host = host
    this.#reader = options.reader
    this.#lock = options.lock ?? true
    this.#shareable = options.shareable ?? false
    this.#segmentBytes = options.segmentBytes ?? DEFAULT_SEGMENT_BYTES
    if (!Number.isSafeInteger(this.#segmentBytes) || this.#segmentBytes < 1) {
      throw new CkptError('INVALID_ARGUMENT', `segmentBytes ${this.#segmentBytes} is not a whole number above 0`, {
        fields: { field: 'segmentBytes' },
      })
    }
    this.#pool = new BlockPool(host, {
      lock: this.#lock,
      shareable: this.#shareable,
      ...(options.beforeFree && { beforeFree: options.beforeFree }),
    })
  }

  /** Names of the registered checkpoints, in the order of registration. */
  get names(): string[] {
    return [...this.#entries.keys()]
  }

  /** Returns true if the memory of `name` is returned to the shared pool when it is unregistered; false for unknown names. */
  isPooled(name: string): boolean {
    return this.#entries.get(name)?.pooled ?? false
  }

  /** Returns true if `name` is registered. */
  has(name: string): boolean {
    return this.#entries.has(name)
  }

  /** Contents of the shared pool. */
  get poolStats(): PoolStats {
    return this.#pool.stats
  }

  /**
   * Loads a checkpoint into host memory. Either all of it is registered, or nothing has changed. A trainer is notified once its
   * tensors are registered, and may then write to them again.
   *
   * @throws CkptError `CHECKPOINT_EXISTS`, `CHECKPOINT_MALFORMED`, `CHECKPOINT_UNREADABLE`, `CHECKPOINT_CHANGED` (files that
   * change while they are read: none of them is kept), `INVALID_ARGUMENT`, `OUT_OF_MEMORY`, `UNSUPPORTED` (tensors on a GPU
   * that the rank's device cannot read), `ABORTED` (by the signal or by {@link close}).
   */
  async register(name: string, source: CheckpointSource, options: RegisterOptions = {}): Promise<void> {
    this.#checkFree(name)
    const abort = new AbortController()
    const stopListening = onAbort(options.signal, () => abort.abort(options.signal?.reason))
    const loading = this.#load(name, source, options, abort.signal).finally(() => {
      this.#loading.delete(name)
      stopListening()
    })
    this.#loading.set(name, { abort, done: loading.catch(() => undefined) })
    await loading
  }

  /**
   * Reserves memory for a checkpoint that does not come through `register`: segments of these sizes, in bytes. Until it is
   * registered or released its name is taken, and `close` waits for that.
   *
   * @throws CkptError `CHECKPOINT_EXISTS`, `OUT_OF_MEMORY`.
   */
  async reserve(name: string, segmentBytes: readonly number[]): Promise<Reservation> {
    this.#checkFree(name)
    let over!: () => void
    const done = new Promise<void>((resolve) => (over = resolve))
    this.#loading.set(name, { abort: new AbortController(), done })
    try {
      // Arriving bytes touch it.
      const options = { lock: this.#lock, shareable: this.#shareable, prefault: false }
      const memories = await allocateAll(this.#host, segmentBytes, options)
      const blocks = memories.map(ownBlock)
      const segments = segmentBytes.map((bytes, index): SegmentMeta => ({ bytes, kind: memories[index]!.kind }))
      return new Reservation(name, memories, (tensors, digests) => {
        if (tensors === undefined || this.#closed) releaseAll(blocks)
        else this.#add(name, false, { blocks, segments, tensors }, digests)
        this.#loading.delete(name)
        over()
      })
    } catch (error) {
      this.#loading.delete(name)
      over()
      throw error
    }
  }

  /**
   * Releases a checkpoint's memory (to the pool, if it came from there). With `force` a leased checkpoint is removed too: its
   * name is free at once, its memory when the last lease ends.
   *
   * @throws CkptError `CHECKPOINT_UNKNOWN`; `CHECKPOINT_IN_USE` while it is leased or its registration is running.
   */
  unregister(name: string, options: { force?: boolean } = {}): void {
    if (this.#loading.has(name)) {
      throw new CkptError('CHECKPOINT_IN_USE', `checkpoint ${JSON.stringify(name)} is being registered`, {
        fields: { checkpoint: name },
      })
    }
    const entry = this.#entry(name)
    if (entry.leases > 0 && options.force !== true) {
      throw new CkptError('CHECKPOINT_IN_USE', `checkpoint ${JSON.stringify(name)} is leased ${times(entry.leases)}`, {
        fields: { checkpoint: name, leases: entry.leases },
      })
    }
    this.#retire(entry)
  }

  /** Resolves when the memory released so far has returned to the system; leased memory returns later. */
  async settled(): Promise<void> {
    await this.#host.settled?.()
  }

  /** Keeps a checkpoint's memory alive. @throws CkptError `CHECKPOINT_UNKNOWN`. */
  lease(name: string): Lease {
    const entry = this.#entry(name)
    entry.leases++
    let held = true
    const release = () => {
      if (!held) return
      held = false
      entry.leases--
      if (entry.retired && entry.leases === 0) releaseAll(entry.loaded.blocks)
    }
    const segments = entry.loaded.blocks.map((block) => block.memory)
    return {
      checkpoint: name,
      segments,
      get table() {
        return entry.table
      },
      release,
      [Symbol.dispose]: release,
    }
  }

  /** Returns the metas registered under a name. @throws CkptError `CHECKPOINT_UNKNOWN`. */
  metas(name: string): CheckpointMetas {
    const entry = this.#entry(name)
    return { segments: entry.loaded.segments, tensors: entry.table }
  }

  /**
   * Returns the 64-bit digest of every tensor, by its index in the table; computed on first use, then kept with the table.
   *
   * @throws CkptError `CHECKPOINT_UNKNOWN`, or the errors of {@link Host.digest}.
   */
  async computeDigests(name: string): Promise<BigUint64Array> {
    const entry = this.#entry(name)
    entry.digests ??= this.#digest(entry)
    return entry.digests
  }

  /**
   * Frees the shared pool. With `force` the checkpoints in it are unregistered first; memory that is leased, or that a
   * registration is filling, is freed as soon as it is released.
   *
   * @throws CkptError `CHECKPOINT_IN_USE` if a registered checkpoint uses it and `force` is not set; nothing is freed then.
   */
  releasePool(options: { force?: boolean } = {}): void {
    const force = options.force === true
    const { usedBlocks } = this.#pool.stats
    if (usedBlocks > 0 && !force) {
      const names = [...this.#entries.values()].filter((entry) => entry.pooled).map((entry) => entry.name)
      throw new CkptError('CHECKPOINT_IN_USE', `${usedBlocks} blocks of the shared pool are in use (${names.join(', ')})`, {
        fields: { checkpoints: names },
      })
    }
    for (const entry of this.#entries.values()) if (entry.pooled) this.#retire(entry)
    this.#pool.release({ force })
  }

  /**
   * Stops running registrations, unregisters everything and frees the pool; leased memory is freed when its last lease ends.
   * Calling it again does nothing.
   */
  async close(): Promise<void> {
    this.#closed = true
    const loading = [...this.#loading.values()]
    for (const { abort } of loading) abort.abort(new CkptError('ABORTED', 'the checkpoint store was closed'))
    await Promise.all(loading.map(({ done }) => done))
    for (const entry of this.#entries.values()) this.#retire(entry)
    this.#pool.release({ force: true })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #load(name: string, source: CheckpointSource, options: RegisterOptions, signal: AbortSignal): Promise<void> {
    throwIfAborted(signal)
    checkOptions(source, options)
    const inPlace = options.inPlace === true
    const pooled = options.pool === 'shared' && !inPlace
    const context: LoadContext = {
      host: this.#host,
      reader: this.#reader,
      pool: pooled ? this.#pool : undefined,
      lock: options.lock ?? this.#lock,
      shareable: this.#shareable,
      segmentLimit: this.#segmentBytes,
      removeFiles: options.removeFiles === true,
      digests: options.digests !== false,
      signal,
      onProgress: options.onProgress && new SteadyProgress(options.onProgress).report,
    }
    if ('trainer' in source) {
      const load = (specs: TensorSpec[], until: AbortSignal) => {
        checkCarried(specs, { peer: source.trainer })
        const tied = { ...context, signal: until }
        return inPlace ? mapTensors(specs, tied) : loadTensors(specs, tied)
      }
      await withTrainer(source, signal, load, (loaded) => this.#add(name, pooled, loaded))
      return
    }
    let loaded: Loaded
    if ('tensors' in source) {
      const specs = tensorSpecs(source.tensors)
      checkCarried(specs, {})
      loaded = await (inPlace ? mapTensors(specs, context) : loadTensors(specs, context, source.fill))
    } else {
      loaded = await registerFiles(source, { inPlace, share: options.share }, context)
    }
    this.#add(name, pooled, loaded)
  }

  #add(name: string, pooled: boolean, loaded: Loaded, known = loaded.digests): void {
    const table = tensorTable(loaded.tensors, known)
    const digests = known && Promise.resolve(known)
    this.#entries.set(name, { name, pooled, loaded, table, digests, leases: 0, retired: false })
  }

  async #digest(entry: Entry): Promise<BigUint64Array> {
    using lease = this.lease(entry.name)
    try {
      const digests = await computeTableDigests(this.#host, lease.segments, lease.table)
      entry.table = { ...entry.table, digests }
      return digests
    } catch (error) {
      entry.digests = undefined
      throw error
    }
  }

  #retire(entry: Entry): void {
    this.#entries.delete(entry.name)
    entry.retired = true
    if (entry.leases === 0) releaseAll(entry.loaded.blocks)
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(name)
    if (entry !== undefined) return entry
    const hint = this.#loading.has(name) ? 'is still being registered' : 'is not registered'
    throw new CkptError('CHECKPOINT_UNKNOWN', `checkpoint ${JSON.stringify(name)} ${hint}`, { fields: { checkpoint: name } })
  }

  #checkFree(name: string): void {
    this.#checkOpen()
    if (!this.#entries.has(name) && !this.#loading.has(name)) return
    throw new CkptError('CHECKPOINT_EXISTS', `checkpoint ${JSON.stringify(name)} is already registered`, {
      fields: { checkpoint: name },
    })
  }

  #checkOpen(): void {
    if (this.#closed) throw new CkptError('INVALID_STATE', 'the checkpoint store is closed')
  }
}

function checkOptions(source: CheckpointSource, options: RegisterOptions): void {
  const refuse = (field: string, message: string) => {
    throw new CkptError('INVALID_ARGUMENT', message, { fields: { field } })
  }
  if (options.share !== undefined && ('tensors' in source || 'trainer' in source)) {
    refuse('share', 'named tensors cannot be divided: give each rank its own')
  }
  if (options.inPlace === true) {
    if ('files' in source && source.root !== undefined) refuse('root', 'files below a root cannot be used in place')
    if (options.pool === 'shared') refuse('pool', 'checkpoints used in place take no memory from the shared pool')
    // The other ranks may not have mapped the files yet.
    if (options.removeFiles === true && (options.share?.count ?? 1) > 1)
      refuse('removeFiles', 'files that are divided among ranks cannot be removed')
  } else if (options.removeFiles === true) refuse('removeFiles', 'removeFiles needs inPlace')
}

function times(count: number): string {
  return count === 1 ? 'once' : `${count} times`
}
