/**
 * The native addon as it is. It loads on every machine; `probe` says what this one lacks. Objects are opaque handles; closing one
 * lets go of it, running native work keeps what it uses. Errors carry `code` (of `@ckpt/contract`'s codes) and, where known,
 * `errno`, `field` and `peer`. `@ckpt/transport` is the typed way to use it.
 */

declare const tag: unique symbol

/** A GPU that is in use. */
export interface CudaDeviceHandle {
  readonly [tag]: 'device'
}
/** Device memory. */
export interface CudaMemoryHandle {
  readonly [tag]: 'memory'
}
/** Host memory known to the driver. */
export interface CudaRegistrationHandle {
  readonly [tag]: 'registration'
}
/** A member's place in a group of GPUs. */
export interface CudaGroupHandle {
  readonly [tag]: 'group'
}
/** Device memory to read from: another process's, or this process's own. */
export interface CudaSourceHandle {
  readonly [tag]: 'source'
}
/** Copies into engine parameters, prepared. */
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
  /** -1 where the system does not say. */
  readonly numaNode: number
  /** CPUs near the GPU, as a list such as `0-15,32`; empty where the system does not say. */
  readonly cpus: string
  /** For example 90. */
  readonly computeCapability: number
  readonly totalBytes: number
  /** By device index: whether this GPU reaches the other one's memory over NVLink or PCIe. */
  readonly peerAccess: readonly boolean[]
}

/** A library that was looked for. */
export interface CudaLibrary {
  readonly available: boolean
  /** What is missing, with the names tried. */
  readonly problem: string | undefined
  /** As the library counts: 13000 for CUDA 13.0, 22803 for NCCL 2.28.3; 0 where there is none. */
  readonly version: number
  readonly path: string | undefined
  readonly attempts: readonly { readonly name: string; readonly error: string | undefined }[]
}

/** What this machine has for CUDA devices, and what it lacks. */
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
  /** `sources`: own buckets are copied from the sources only once `arrived` was called for them. */
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

/** What happens in a run, told on the JavaScript thread. */
export interface CudaPipelineCallbacks {
  /** Every byte of the bucket is in the ring; in order. */
  onBucket(bucket: number): void
  /** Called once, with the error or the figures. */
  onFinished(error: Error | undefined, stats: CudaPipelineStats | undefined): void
  /** No copy touches ring or sources any more; called once, after `onFinished`. */
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
  /** @throws Error INVALID_ARGUMENT when the bucket is not one that arrives here. */
  arrived(bucket: number): void
  abort(message: string): void
}

export interface NativeCuda {
  /** The optional inputs that the build found, and those that it did without: `nvcc`, for the kernels. */
  readonly buildInfo: { readonly with: readonly string[]; readonly without: readonly string[] }
  /** Never rejects for something that is missing. */
  probe(): Promise<CudaProbe>
  openDevice(index: number): Promise<CudaDeviceHandle>
  closeDevice(device: CudaDeviceHandle): Promise<void>
  memoryInfo(device: CudaDeviceHandle): Promise<{ free: number; total: number }>
  allocate(device: CudaDeviceHandle, bytes: number): Promise<CudaMemoryHandle>
  exportMemory(memory: CudaMemoryHandle): { handle: Buffer; offset: number; pointer: bigint }
  freeMemory(memory: CudaMemoryHandle): Promise<void>
  download(memory: CudaMemoryHandle, offset: number, bytes: number): Promise<Buffer>
  /**
   * `views` are consecutive parts of one memory, which has to stay mapped until `unregisterHost` has resolved. Nothing is pinned yet;
   * only memory that is `pinnable` ever can be.
   */
  registerHost(device: CudaDeviceHandle, views: readonly Buffer[], pinnable: boolean): CudaRegistrationHandle
  /**
   * Locks the pages of slices `first` … `last` - 1 (256 MiB each) and maps them for the GPUs. Resolves with the driver's refusal, if any.
   */
  pinHost(
    registration: CudaRegistrationHandle,
    first: number,
    last: number,
    threads: number | undefined,
  ): Promise<string | undefined>
  unregisterHost(registration: CudaRegistrationHandle): Promise<void>
  /** Maps another process's allocation by its CUDA IPC handle (64 bytes); `bytes` is the size of all of it. */
  openForeign(device: CudaDeviceHandle, handle: Buffer): Promise<{ source: CudaSourceHandle; bytes: number }>
  /** Device memory of this process, which whoever owns it keeps while it is read. */
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
   * Copies (the columns of StridedCopy) from pinned memories into `storages`, then `forwards` among `storages`. Runs of `engineBytes`
   * or more go to the copy engine, the others to a kernel, beside it or (not `together`) after it.
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
  /** What one member makes and all members join with: 128 bytes. */
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
  /** `ranges`: memory, offset, bytes of each. */
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
   * Runs the beginning of a job once a candidate, through its ring, whose contents are lost; nothing is delivered. All members do so
   * together. `candidates`: alternating (0 or 1), chunkBytes, and how many bytes of some owner to run, of each. Resolves with the
   * whole time, that of H2D and that of broadcasts, in milliseconds, of each. After a failure the group must be left.
   */
  measureOrders(
    group: CudaGroupHandle,
    ring: CudaMemoryHandle,
    job: CudaPipelineJob,
    candidates: Float64Array,
    cancellation: CudaCancellationHandle,
  ): Promise<Float64Array>
  /** Starts a run of the group's member. @throws Error INVALID_ARGUMENT naming the field. */
  startPipeline(
    group: CudaGroupHandle,
    ring: CudaMemoryHandle,
    job: CudaPipelineJob,
    callbacks: CudaPipelineCallbacks,
  ): CudaPipeline
}

/** The addon; loaded at the first call. @throws Error with code ADDON_UNAVAILABLE whose message says how to get it. */
export function loadNativeCuda(): NativeCuda
