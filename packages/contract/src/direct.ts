import type { StridedCopies } from './copy-lists.ts'
import type { HostMemory } from './host.ts'
import type { ForeignMemory, ProcessName } from './memory-identity.ts'
import type { StorageHandle } from './routes.ts'

/** A storage of an engine worker, with its owner. */
export interface WorkerStorage {
  readonly handle: StorageHandle
  /** Process of the worker, if reported: descriptors of no other process are opened. */
  readonly process?: ProcessName | undefined
  /** Name for errors: "storage 3 of rank 1's engine worker". */
  readonly what: string
}

/** Parameters of engine workers, mapped by a rank. */
export interface MappedStorages {
  /** Unmaps them. No job that writes to them may be running. */
  close(): Promise<void>
}

/**
 * Copies of a direct job. In `copies` sources index `memories` and destinations index the storages; in `forwards` both index
 * the storages.
 */
export interface DirectCopies {
  readonly memories: readonly HostMemory[]
  readonly storages: MappedStorages
  /** Copies from host memory into the own engine worker's parameters. Destinations do not overlap. */
  readonly copies: StridedCopies
  /** Copies from there into the parameters of other workers, after all `copies` have ended. */
  readonly forwards: StridedCopies
}

/** Times of a direct job's stages in milliseconds, and the bytes it moved. */
export interface DirectStats {
  readonly h2dMs: number
  readonly forwardMs: number
  readonly h2dBytes: number
  readonly forwardBytes: number
  /** [stage, index, start, end] of each span, in milliseconds since the job began; stage 0 is H2D, 1 forwarding. */
  readonly spans: Float64Array
}

/** Copies that are prepared once and run for every update. */
export interface DirectJob {
  /**
   * Runs all copies; one run at a time. @throws CkptError `ABORTED`, `NATIVE_FAILURE`. No copy is in flight when it settles.
   */
  run(signal: AbortSignal): Promise<DirectStats>
  close(): Promise<void>
}

/** Device functions for writing into engine parameters on the device. */
export interface DirectDevice {
  /** Describes how the device would split a copy, for reports. */
  readonly how: string
  /** Returns true if this device can write into memory of these other devices, by UUID. */
  reaches(deviceUuids: readonly string[]): Promise<boolean>
  /**
   * Maps storages, of the own engine worker and of others: all of them or none.
   *
   * @throws CkptError `MEMORY_REFUSED` or `MEMORY_CHANGED` naming the storage, `NATIVE_FAILURE`, `INVALID_ARGUMENT`.
   */
  map(storages: readonly WorkerStorage[]): Promise<MappedStorages>
  /** Maps memory of a different rank of this machine, ready to be copied from. @throws CkptError as for `Host.openForeign`. */
  mapMemory(memory: ForeignMemory, what: string): Promise<HostMemory>
  prepare(copies: DirectCopies): Promise<DirectJob>
}
