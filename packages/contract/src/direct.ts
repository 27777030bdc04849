import type { HostMemory } from './host.ts'
import type { StorageHandle } from './routes.ts'

/** Parameters of engine workers, mapped by a rank. */
export interface MappedStorages {
  /** Unmaps them. No job that writes to them may run. */
  close(): Promise<void>
}

/**
 * Copies as flat rows of {@link STRIDED_COPY_COLUMNS} numbers, see `StridedCopy`. In `copies` sources index `memories` and
 * destinations the storages; in `forwards` both index the storages.
 */
export interface DirectCopies {
  readonly memories: readonly HostMemory[]
  readonly storages: MappedStorages
  /** From host memory into the own engine worker's parameters. Destinations do not overlap. */
  readonly copies: Float64Array
  /** What follows, when all `copies` have ended: from there into the parameters of other workers. */
  readonly forwards: Float64Array
}

/** Where the time of a direct job went, in milliseconds, and what it moved. */
export interface DirectStats {
  readonly h2dMs: number
  readonly forwardMs: number
  readonly h2dBytes: number
  readonly forwardBytes: number
  /** [stage, index, start, end] of each, times in milliseconds since the job began; stage 0 is H2D, 1 forwarding. */
  readonly spans: Float64Array
}

/** Copies that are prepared once and run at every update. */
export interface DirectJob {
  /** Runs all copies; one run at a time. @throws CkptError `ABORTED`, `NATIVE_FAILURE`. No copy is under way when it settles. */
  run(signal: AbortSignal): Promise<DirectStats>
  close(): Promise<void>
}

/** What a device needs to write into engine parameters that lie on it. */
export interface DirectDevice {
  /** How the device would split a copy: for reports. */
  readonly how: string
  /** Whether this device can write into memory of these others, by UUID. */
  reaches(deviceUuids: readonly string[]): Promise<boolean>
  /** Maps storages, of the own engine worker and of others. @throws CkptError `NATIVE_FAILURE`, `INVALID_ARGUMENT` naming the storage. */
  map(handles: readonly StorageHandle[]): Promise<MappedStorages>
  /** Memory of another rank of this machine, ready to be copied from. */
  mapMemory(path: string): Promise<HostMemory>
  prepare(copies: DirectCopies): Promise<DirectJob>
}
