import type { ContiguousCopy } from './copy-lists.ts'
import type { DirectDevice } from './direct.ts'
import type { CkptError } from './errors.ts'
import type { Host, HostMemory, TransferStats } from './host.ts'
import type { BucketColumns, CopyColumns, PipelineMode } from './plan.ts'

/** How an engine worker gets at a ring: POSIX shared memory by name, or CUDA device memory by IPC handle. */
export type RingHandle =
  | {
      readonly kind: 'shm'
      readonly name: string
      readonly offset: number
      readonly bytes: number
      /** What has that name, as of `MemoryIdentity`; `size` is that of the whole object. */
      readonly device?: string | undefined
      readonly inode?: string | undefined
      readonly size?: number | undefined
    }
  | {
      readonly kind: 'cuda'
      readonly handle: Uint8Array
      readonly offset: number
      readonly bytes: number
      readonly deviceUuid: string
    }

/** Device memory shared with the engine worker, through which buckets pass. */
export interface Ring {
  readonly bytes: number
  /** What the worker needs to map it. */
  readonly handle: RingHandle
  /** Where it lies in host memory of this process; absent where it does not. One-sided reads may then land in it. */
  readonly place?: { readonly memory: HostMemory; readonly offset: number }
  close(): Promise<void>
}

/** Small values from every rank, ascending by position; how a collective's members find each other. */
export type Exchange = <T>(key: string, value: T) => Promise<T[]>

export interface CollectiveOptions {
  /** Position of this rank among the members. */
  readonly position: number
  /** Number of members. */
  readonly size: number
  readonly exchange: Exchange
  readonly signal?: AbortSignal
  readonly timeoutMs: number
}

/** The parts of a plan that one member executes, as flat data. `owner` in `buckets` is the member's *position*, not its rank. */
export interface PipelineJob {
  readonly ring: Ring
  readonly buckets: Pick<BucketColumns, 'count' | 'owner' | 'bytes' | 'ringOffset' | 'after'>
  /** Copies from `sources` into the buckets this member owns. */
  readonly copies: CopyColumns
  readonly sources: readonly HostMemory[]
  readonly chunkBytes: number
  readonly mode: PipelineMode
  /** No progress for this long is an error that names the member waited for. */
  readonly timeoutMs: number
  /** Called once a bucket, in order, when all its bytes are in this member's ring. */
  readonly onBucket: (bucket: number) => void
  /**
   * Bytes of this member's own buckets come from elsewhere while the pipeline runs; absent where `sources` hold them already. Every
   * own bucket then waits for {@link PipelineRun.arrived}.
   *
   * `sources`: they come into `sources`, from where `copies` bring them into the ring. `ring`: they come into the ring itself
   * ({@link Ring.place}); there are no copies, and `onWritable` is called once an own bucket, in order, when its bytes of the ring
   * are free.
   */
  readonly arrivals?: { readonly into: 'sources' } | { readonly into: 'ring'; readonly onWritable: (bucket: number) => void }
}

/** A way to lay H2D and broadcasts in time, and how long it took on the slowest member. Times in milliseconds. */
export interface MeasuredOrder {
  readonly name: PipelineOrder['name']
  readonly chunkBytes: number
  /** What the busiest owner gave while it was measured. */
  readonly bytes: number
  readonly wholeMs: number
  readonly h2dMs: number
  readonly broadcastMs: number
}

/** How a collective lays H2D and broadcasts in time, and why. */
export interface PipelineOrder {
  /** `overlapped`: both at once. `alternating`: all copies of a round, then its broadcasts, for links that carry both. */
  readonly name: 'overlapped' | 'alternating'
  readonly chunkBytes: number
  /** Whether H2D and broadcasts slow each other down, as where GPUs reach each other through the host alone. */
  readonly linksShared: boolean
  readonly reason: string
  readonly measured: readonly MeasuredOrder[]
}

/** Where the time of a pipeline went. Times are busy times in milliseconds; stages overlap, so they may add up to more than the whole. */
export interface PipelineStats {
  readonly h2dMs: number
  readonly broadcastMs: number
  /** Time in which neither H2D nor broadcast could work: the ring was full, or a peer was late. */
  readonly idleMs: number
  readonly h2dBytes: number
  readonly broadcastBytes: number
  /** [stage, bucket, start, end] of every span, times in milliseconds since the start; stage 0 is H2D, 1 broadcast. */
  readonly spans: Float64Array
  /** How H2D and broadcasts were laid in time; absent where there was nothing to choose. */
  readonly order?: PipelineOrder
}

/** A pipeline that is running. */
export interface PipelineRun {
  /** `performance.now()` just before the pipeline began: the zero of its spans, to within the time that starting takes. */
  readonly startedAt: number
  /** Resolves when every bucket was delivered and released; rejects with a CkptError on a failure, an abort or a timeout. */
  readonly finished: Promise<PipelineStats>
  /** The engine worker is done with this bucket (and, since it works in order, with every earlier one). */
  release(bucket: number): void
  /** All bytes of this own bucket have come ({@link PipelineJob.arrivals}); in any order, once a bucket. */
  arrived(bucket: number): void
  /** Stops as soon as no copy is under way; `finished` rejects with `reason`. */
  abort(reason: CkptError): void
}

/** A group of ranks whose devices move buckets among themselves. */
export interface Collective {
  readonly position: number
  readonly size: number
  /** Starts a pipeline; one at a time. All members must run jobs with the same buckets. */
  run(job: PipelineJob): Promise<PipelineRun>
  /** Leaves the group. After an abort of a run the group must be closed and made again. */
  close(): Promise<void>
}

/** Device memory of the trainer: an allocation of another process by its CUDA IPC handle, or a range of this process's own. */
export type DeviceSource =
  | {
      readonly kind: 'ipc'
      /** 64 bytes. It names a whole allocation. */
      readonly handle: Uint8Array
      /** Of the GPU that the memory lies on; it may be another one than the reading device. */
      readonly deviceUuid: string
    }
  | { readonly kind: 'pointer'; readonly pointer: bigint; readonly bytes: number; readonly deviceUuid: string }

export interface DeviceReadRequest {
  readonly sources: readonly DeviceSource[]
  /** Made by the host of the reading device. */
  readonly memories: readonly HostMemory[]
  /** From `sources` into `memories` (index `destination`). */
  readonly reads: readonly ContiguousCopy[]
  /** Called now and then with the bytes read so far. */
  readonly onProgress?: (bytes: number) => void
  readonly signal?: AbortSignal
}

/** What can copy a trainer's device memory to the host. */
export interface DeviceReader {
  /**
   * Copies runs of device memory to where they belong. Whoever owns the memory keeps it, and does not write to it, until then;
   * sources are unmapped before it settles.
   *
   * @throws CkptError `INVALID_ARGUMENT` with the field `read` (its index) for a run outside its memory, with the field `source`
   * (its index) for one on a GPU that this process does not see or that cannot be mapped; `NATIVE_FAILURE`; `ABORTED` by the signal.
   */
  readDevice(request: DeviceReadRequest): Promise<TransferStats>
}

/** A place engine parameters live in: host memory, or one GPU. */
export interface Device extends Partial<DeviceReader> {
  readonly kind: 'host' | 'cuda'
  /** `HOST-…` or the GPU's own `GPU-…`. */
  readonly uuid: string
  /** Sizes in bytes that this kind of device does best with; how that was found stands where they are set. */
  readonly preferred: { readonly bucketBytes: number; readonly chunkBytes: number }
  /** Host memory services that belong to this device (for CUDA: pinned for it). */
  readonly host: Host
  /** Writing into engine parameters; absent where the device cannot. */
  readonly direct?: DirectDevice
  /** Free and total memory in bytes of where the ring would lie. */
  memory(): Promise<{ readonly free: number; readonly total: number }>
  createRing(bytes: number): Promise<Ring>
  createCollective(options: CollectiveOptions): Promise<Collective>
  close(): Promise<void>
}
