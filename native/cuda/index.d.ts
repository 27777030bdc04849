/**
 * The native addon itself. It loads on every machine; `probe` reports what this machine lacks. Objects are opaque handles.
 * Closing a handle releases it; running native work keeps what it uses. Errors carry `code` (one of `@ckpt/contract`'s codes)
 * and, if known, `errno`, `field` and `peer`. `@ckpt/transport` is the typed interface to it.
 */

declare const tag: unique symbol

/** An open GPU. */
export interface CudaDeviceHandle {
  readonly [tag]: 'device'
}
/** Device memory. */
export interface CudaMemoryHandle {
  readonly [tag]: 'memory'
}
/** Host memory registered with the driver. */
export interface CudaRegistrationHandle {
  readonly [tag]: 'registration'
}
/** A member's place in a group of GPUs. */
export interface CudaGroupHandle {
  readonly [tag]: 'group'
}
/** Device memory to read from: that of another process, or this process's own. */
export interface CudaSourceHandle {
  readonly [tag]: 'source'
}
/** Prepared copies into engine parameters. */
export interface CudaDirectHandle {
  readonly [tag]: 'direct'
}
export interface CudaCancellationHandle {
  readonly [tag]: 'cancellation'
}

/** A GPU as the driver and the kernel describe it. */
export interface CudaDeviceInfo {
  readonly index: number
  readonly name: string
  /** `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` */
  readonly uuid: string
  /** domain:bus:device.function */
  readonly pciBusId: string
  /** -1 if the system does not report it. */
  readonly numaNode: number
  /** CPUs near the GPU, as a list such as `0-15,32`; empty if the system does not report it. */
  readonly cpus: string
  /** For example 90. */
  readonly computeCapability: number
  readonly totalBytes: number
  /** By device index: whether this GPU can access the other one's memory over NVLink or PCIe. */
  readonly peerAccess: readonly boolean[]
}

/** Result of looking for a library. */
export interface CudaLibrary {
  readonly available: boolean
  /** What is missing, with the names tried. */
  readonly problem: string | undefined
  /** In the library's own numbering: 13000 for CUDA 13.0, 22803 for NCCL 2.28.3; 0 if there is none. */
  readonly version: number
  readonly path: string | undefined
  readonly attempts: readonly { readonly name: string; readonly error: string | undefined }[]
}

/** What this machine has for CUDA devices, and what is missing. */
export interface CudaProbe {
  readonly driver: CudaLibrary
  readonly nccl: CudaLibrary
  readonly kernels: { readonly available: boolean; readonly problem: string | undefined }
  readonly devices: readonly CudaDeviceInfo[]
}

/** A member's part of a plan as columns, see PipelineJob of `@ckpt/contract`. */
export interface CudaPipelineJob {
  readonly position: number
  readonly size: number
  readonly sources: readonly CudaRegistrationHandle[]
  readonly bucketCount: number
  readonly owner: Uint32Array
  readonly bytes: Float64Array
  readonly ringOffset: Float64Array
  readonly after: Int32Array
  readonly copyCount: number
  readonly segment: Uint32Array
  readonly segmentOffset: Float64Array
  readonly bucketOffset: Float64Array
  readonly copyBytes: Float64Array
  readonly firstCopy: Uint32Array
  readonly chunkBytes: number
  readonly serial: boolean
  /** All copies of a round, then all its broadcasts; otherwise both overlap. */
  readonly alternating: boolean
  readonly timeoutMs: number
  /** `sources`: own buckets are copied from the sources only after `arrived` was called for them. */
  readonly arriveIn?: 'sources' | undefined
}

export interface CudaPipelineStats {
  readonly h2dMs: number
  readonly broadcastMs: number
  readonly idleMs: number
  readonly h2dBytes: number
  readonly broadcastBytes: number
  readonly spans: Float64Array
}

/** Events of a run, reported on the JavaScript thread. */
export interface CudaPipelineCallbacks {
  /** All bytes of the bucket are in the ring; called in order. */
  onBucket(bucket: number): void
  /** Called once, with the error or the statistics. */
  onFinished(error: Error | undefined, stats: CudaPipelineStats | undefined): void
  /** No copy accesses ring or sources any more; called once, after `onFinished`. */
  onDrained?(): void
}

/** See DirectStats of `@ckpt/contract`. */
export interface CudaDirectStats {
  readonly h2dMs: number
  readonly forwardMs: number
  readonly h2dBytes: number
  readonly forwardBytes: number
  readonly spans: Float64Array
}

export interface CudaPipeline {
  release(bucket: number): void
  /** @throws Error INVALID_ARGUMENT if the bucket does not arrive here. */
  arrived(bucket: number): void
  abort(message: string): void
}

export interface NativeCuda {
  /** Optional inputs that the build found, and those that it did not find: `nvcc`, for the kernels. */
  readonly buildInfo: { readonly with: readonly string[]; readonly without: readonly string[] }
  /** Never rejects because something is missing. */
  probe(): Promise<CudaProbe>
  openDevice(index: number): Promise<CudaDeviceHandle>
  closeDevice(device: CudaDeviceHandle): Promise<void>
  memoryInfo(device: CudaDeviceHandle): Promise<{ free: number; total: number }>
  allocate(device: CudaDeviceHandle, bytes: number): Promise<CudaMemoryHandle>
  exportMemory(memory: CudaMemoryHandle): { handle: Buffer; offset: number; pointer: bigint }
  freeMemory(memory: CudaMemoryHandle): Promise<void>
  download(memory: CudaMemoryHandle, offset: number, bytes: number): Promise<Buffer>
  /**
   * `views` are consecutive parts of one memory, which has to stay mapped until `unregisterHost` has resolved. Nothing is
   * pinned yet; only `pinnable` memory can be pinned later.
   */
  registerHost(device: CudaDeviceHandle, views: readonly Buffer[], pinnable: boolean): CudaRegistrationHandle
  /**
   * Locks the pages of slices `first` … `last` - 1 (256 MiB each) and maps them for the GPUs. Resolves with the driver's error,
   * if it refuses.
   */
  pinHost(
    registration: CudaRegistrationHandle,
    first: number,
    last: number,
    threads: number | undefined,
  ): Promise<string | undefined>
  unregisterHost(registration: CudaRegistrationHandle): Promise<void>
  /** Maps another process's allocation by its CUDA IPC handle (64 bytes); `bytes` is the size of the whole allocation. */
  openForeign(device: CudaDeviceHandle, handle: Buffer): Promise<{ source: CudaSourceHandle; bytes: number }>
  /** Device memory of this process; its owner has to keep it while it is read. */
  ownSource(device: CudaDeviceHandle, pointer: bigint, bytes: number): CudaSourceHandle
  closeSource(source: CudaSourceHandle): Promise<void>
  /** `copies`: the columns of ContiguousCopies, from `sources` into `memories`. Resolves with the bytes copied. */
  readDevice(
    device: CudaDeviceHandle,
    sources: readonly CudaSourceHandle[],
    memories: readonly CudaRegistrationHandle[],
    copies: Float64Array,
    cancellation: CudaCancellationHandle,
    onProgress: ((bytes: number) => void) | undefined,
  ): Promise<number>
  /**
   * Copies (the columns of StridedCopy) from pinned memories into `storages`, then `forwards` among `storages`. Runs of
   * `engineBytes` or more use the copy engine, the others a kernel, which runs at the same time or (without `together`)
   * afterwards.
   */
  prepareDirect(
    device: CudaDeviceHandle,
    memories: readonly CudaRegistrationHandle[],
    storages: readonly CudaSourceHandle[],
    copies: Float64Array,
    forwards: Float64Array,
    engineBytes: number,
    together: boolean,
  ): Promise<CudaDirectHandle>
  runDirect(job: CudaDirectHandle, cancellation: CudaCancellationHandle): Promise<CudaDirectStats>
  closeDirect(job: CudaDirectHandle): Promise<void>
  newCancellation(): CudaCancellationHandle
  cancel(cancellation: CudaCancellationHandle): void
  /** Created by one member and used by all members to join: 128 bytes. */
  newUniqueId(): Promise<Buffer>
  joinGroup(
    device: CudaDeviceHandle,
    id: Buffer | undefined,
    size: number,
    position: number,
    timeoutMs: number,
    cancellation: CudaCancellationHandle,
  ): Promise<CudaGroupHandle>
  leaveGroup(group: CudaGroupHandle, timeoutMs: number): Promise<void>
  /** `ranges`: memory, offset and bytes of each. */
  digest(
    device: CudaDeviceHandle,
    memories: readonly (CudaMemoryHandle | CudaRegistrationHandle)[],
    ranges: Float64Array,
  ): Promise<BigUint64Array>
  /** `copies`: the columns of StridedCopy. Resolves with the bytes moved. */
  copyStrided(
    device: CudaDeviceHandle,
    memories: readonly (CudaMemoryHandle | CudaRegistrationHandle)[],
    copies: Float64Array,
  ): Promise<number>
  /**
   * Runs the beginning of a job once for each candidate, through its ring, whose contents are lost; nothing is delivered. All
   * members do so together. `candidates`: for each, alternating (0 or 1), chunkBytes, and how many bytes of an owner to run.
   * Resolves with the total time, the H2D time and the broadcast time of each, in milliseconds. After a failure the group must
   * be left.
   */
  measureOrders(
    group: CudaGroupHandle,
    ring: CudaMemoryHandle,
    job: CudaPipelineJob,
    candidates: Float64Array,
    cancellation: CudaCancellationHandle,
  ): Promise<Float64Array>
  /** Starts the run of this group member. @throws Error INVALID_ARGUMENT naming the field. */
  startPipeline(
    group: CudaGroupHandle,
    ring: CudaMemoryHandle,
    job: CudaPipelineJob,
    callbacks: CudaPipelineCallbacks,
  ): CudaPipeline
}

/** The addon; loaded at the first call. @throws Error with code ADDON_UNAVAILABLE; its message says how to get the addon. */
export function loadNativeCuda(): NativeCuda
