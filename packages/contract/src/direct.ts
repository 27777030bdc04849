import type { StridedCopies } from './copy-lists.ts'
import type { HostMemory } from './host.ts'
import type { ForeignMemory, ProcessName } from './memory-identity.ts'
import type { StorageHandle } from './routes.ts'

/** A storage of an engine worker, and whose it is. */
export interface WorkerStorage {
  readonly handle: StorageHandle
  /** The worker's process, where it said so: descriptors of no other are opened. */
  readonly process?: ProcessName | undefined
  /** For errors: "storage 3 of rank 1's engine worker". */
  readonly what: string
}

/** Parameters of engine workers, mapped by a rank. */
export interface MappedStorages {
  /** Unmaps them. No job that writes to them may run. */
  close(): Promise<void>
}

/** What a direct job copies. In `copies` sources index `memories` and destinations the storages; in `forwards` both index the storages. */
export interface DirectCopies {
  readonly memories: readonly HostMemory[]
  readonly storages: MappedStorages
  /** From host memory into the own engine worker's parameters. Destinations do not overlap. */
  readonly copies: StridedCopies
  /** What follows, when all `copies` have ended: from there into the parameters of other workers. */
  readonly forwards: StridedCopies
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
  /**
   * Maps storages, of the own engine worker and of others: all of them or none.
   *
   * @throws CkptError `MEMORY_REFUSED` or `MEMORY_CHANGED` naming the storage, `NATIVE_FAILURE`, `INVALID_ARGUMENT`.
   */
  map(storages: readonly WorkerStorage[]): Promise<MappedStorages>
  /** Memory of another rank of this machine, ready to be copied from. @throws CkptError as of `Host.openForeign`. */
  mapMemory(memory: ForeignMemory, what: string): Promise<HostMemory>
  prepare(copies: DirectCopies): Promise<DirectJob>
}
