import type { ContiguousCopy } from './copy-lists.ts'
import type { DirectDevice } from './direct.ts'
import type { CkptError } from './errors.ts'
import type { Host, HostMemory, TransferStats } from './host.ts'
import type { BucketColumns, CopyColumns, PipelineMode } from './plan.ts'

/** Handle by which an engine worker maps a ring: POSIX shared memory by name, or CUDA device memory by IPC handle. */
export type RingHandle =
  | {
      readonly kind: 'shm'
      readonly name: string
      readonly offset: number
      readonly bytes: number
      /** Identity of the object of that name, as in `MemoryIdentity`; `size` is that of the whole object. */
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
  /** Handle with which the worker maps it. */
  readonly handle: RingHandle
  /** Location in host memory of this process; absent if it has none. One-sided reads may then write into it. */
  readonly place?: { readonly memory: HostMemory; readonly offset: number }
  close(): Promise<void>
}

/** Exchanges small values between all ranks, ascending by position; the members of a collective find each other with it. */
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

/** Part of a plan that one member executes, as flat data. `owner` in `buckets` is the member's *position*, not its rank. */
export interface PipelineJob {
  readonly ring: Ring
  readonly buckets: Pick<BucketColumns, 'count' | 'owner' | 'bytes' | 'ringOffset' | 'after'>
  /** Copies from `sources` into the buckets that this member owns. */
  readonly copies: CopyColumns
  readonly sources: readonly HostMemory[]
  readonly chunkBytes: number
  readonly mode: PipelineMode
  /** Time without progress after which an error names the member that is waited for. */
  readonly timeoutMs: number
  /** Called once per bucket, in order, when all its bytes are in this member's ring. */
  readonly onBucket: (bucket: number) => void
  /**
   * Set if the bytes of this member's own buckets arrive while the pipeline runs; absent if `sources` already hold them. Every
   * own bucket then waits for {@link PipelineRun.arrived}.
   *
   * `sources`: bytes arrive in `sources`, and `copies` move them into the ring. `ring`: bytes arrive in the ring itself
   * ({@link Ring.place}); there are no copies, and `onWritable` is called once per own bucket, in order, when its bytes of the
   * ring are free.
   */
  readonly arrivals?: { readonly into: 'sources' } | { readonly into: 'ring'; readonly onWritable: (bucket: number) => void }
}

/** Order in time of H2D and broadcasts, and its duration on the slowest member. Times in milliseconds. */
export interface MeasuredOrder {
  readonly name: PipelineOrder['name']
  readonly chunkBytes: number
  /** Bytes that the busiest owner sent during the measurement. */
  readonly bytes: number
  readonly wholeMs: number
  readonly h2dMs: number
  readonly broadcastMs: number
}

/** Order in time that a collective chose for H2D and broadcasts, with the reason. */
export interface PipelineOrder {
  /** `overlapped`: both at once. `alternating`: all copies of a round, then its broadcasts, for links that carry both. */
  readonly name: 'overlapped' | 'alternating'
  readonly chunkBytes: number
  /** True if H2D and broadcasts slow each other down, for example if GPUs reach each other only through the host. */
  readonly linksShared: boolean
  readonly reason: string
  readonly measured: readonly MeasuredOrder[]
}

/** Times of a pipeline's stages: busy times in milliseconds. Stages overlap, so they may add up to more than the total. */
export interface PipelineStats {
  readonly h2dMs: number
  readonly broadcastMs: number
  /** Time in which neither H2D nor broadcast could work: the ring was full, or a peer was late. */
  readonly idleMs: number
  readonly h2dBytes: number
  readonly broadcastBytes: number
  /** [stage, bucket, start, end] of every span, in milliseconds since the start; stage 0 is H2D, 1 broadcast. */
  readonly spans: Float64Array
  /** Order in time of H2D and broadcasts; absent if there was no choice. */
  readonly order?: PipelineOrder
}

/** A running pipeline. */
export interface PipelineRun {
  /** `performance.now()` just before the pipeline began: the zero of its spans, accurate to the time that starting takes. */
  readonly startedAt: number
  /** Resolves when every bucket was delivered and released; rejects with a CkptError on a failure, an abort or a timeout. */
  readonly finished: Promise<PipelineStats>
  /** Marks this bucket as processed by the engine worker (which works in order, so every earlier bucket too). */
  release(bucket: number): void
  /** Marks all bytes of this own bucket as arrived ({@link PipelineJob.arrivals}); in any order, once per bucket. */
  arrived(bucket: number): void
  /** Stops as soon as no copy is in flight; `finished` rejects with `reason`. */
  abort(reason: CkptError): void
}

/** A group of ranks whose devices move buckets among each other. */
export interface Collective {
  readonly position: number
  readonly size: number
  /** Starts a pipeline; one at a time. All members must run jobs with the same buckets. */
  run(job: PipelineJob): Promise<PipelineRun>
  /** Leaves the group. After an aborted run the group must be closed and created again. */
  close(): Promise<void>
}

/**
 * Device memory of the trainer: an allocation of a different process by its CUDA IPC handle, or a range of this process's own.
 */
export type DeviceSource =
  | {
      readonly kind: 'ipc'
      /** 64 bytes that name a whole allocation. */
      readonly handle: Uint8Array
      /** UUID of the GPU that holds the memory; it may differ from the reading device. */
      readonly deviceUuid: string
    }
  | { readonly kind: 'pointer'; readonly pointer: bigint; readonly bytes: number; readonly deviceUuid: string }

export interface DeviceReadRequest {
  readonly sources: readonly DeviceSource[]
  /** Created by the host of the reading device. */
  readonly memories: readonly HostMemory[]
  /** From `sources` into `memories` (index `destination`). */
  readonly reads: readonly ContiguousCopy[]
  /** Called from time to time with the bytes read so far. */
  readonly onProgress?: (bytes: number) => void
  readonly signal?: AbortSignal
}

/** Copies a trainer's device memory to the host. */
export interface DeviceReader {
  /**
   * Copies runs of device memory to their destinations. Until it settles, the owner must keep the memory and not write to it;
   * sources are unmapped before it settles.
   *
   * @throws CkptError `INVALID_ARGUMENT` with the field `read` (its index) for a run outside its memory, with the field
   * `source` (its index) for a source on a GPU that this process does not see or cannot map; `NATIVE_FAILURE`; `ABORTED` by the
   * signal.
   */
  readDevice(request: DeviceReadRequest): Promise<TransferStats>
}

/** A place that holds engine parameters: host memory, or one GPU. */
export interface Device extends Partial<DeviceReader> {
  readonly kind: 'host' | 'cuda'
  /** `HOST-…` or the GPU's own `GPU-…`. */
  readonly uuid: string
  /** Preferred sizes in bytes for this kind of device; the definitions explain how they were measured. */
  readonly preferred: { readonly bucketBytes: number; readonly chunkBytes: number }
  /** Host memory services that belong to this device (for CUDA: pinned for it). */
  readonly host: Host
  /** Writes into engine parameters; absent if the device does not support it. */
  readonly direct?: DirectDevice
  /** Free and total memory in bytes at the location of the ring. */
  memory(): Promise<{ readonly free: number; readonly total: number }>
  createRing(bytes: number): Promise<Ring>
  createCollective(options: CollectiveOptions): Promise<Collective>
  close(): Promise<void>
}
