import type { ContiguousCopy, StridedCopies } from './copy-lists.ts'
import type { ReadableFile } from './file-identity.ts'
import type { ForeignMemory, MemoryIdentity } from './memory-identity.ts'

/**
 * A range of host memory with a stable address. It stays mapped until {@link HostMemory.close} was called and native users are
 * done.
 */
export interface HostMemory {
  readonly bytes: number
  /** Where it is in this process, for those that write to it from outside; 0 once it is closed. */
  readonly address?: number
  readonly kind: 'anonymous' | 'shared' | 'file'
  /** Name in /dev/shm (without the leading slash) of `shared` memory; path of a `file`, and of `anonymous` memory that is shareable. */
  readonly name: string | undefined
  /**
   * Identity of the memory, for other processes that open it; absent for private memory. `descriptor`: of this process, if it
   * keeps one.
   */
  readonly identity?: (MemoryIdentity & { readonly descriptor?: number }) | undefined
  /**
   * Checks that the mapped object is unchanged: not truncated and, for a file in place, not written to. A name that now refers
   * to a different file does no harm.
   *
   * @throws CkptError `MEMORY_CHANGED` naming the file.
   */
  assertIntact?(): void
  /** True if the pages are locked in memory; if they are not, `lockError` gives the reason. */
  readonly locked: boolean
  readonly lockError: string | undefined
  /**
   * Returns bytes offset … offset + length - 1 without a copy. `close` detaches the view (length 0).
   * @throws RangeError outside the memory.
   */
  view(offset: number, length: number): Buffer
  /** Removes the name of `shared` memory, or a `file` in /dev/shm, from the file system; the memory stays usable. */
  unlink(): void
  /** Releases the memory once running native operations on it are over. Calling it again does nothing. */
  close(): void
}

export interface AllocateOptions {
  /** Size in bytes, above 0. */
  readonly bytes: number
  /** True (default) to lock the pages in memory. A refusal is reported in `lockError`, not thrown. */
  readonly lock?: boolean
  /** True (default) to touch every page before returning. Pass false if a read follows that fills all of it. */
  readonly prefault?: boolean
  /**
   * True if other processes of this user can map it by the path in its `name`, while it is open (default false). Its pages are
   * those of shared memory, which the kernel may keep smaller.
   */
  readonly shareable?: boolean
  /**
   * True to collapse the pages of shareable memory into huge ones before they are filled, if the kernel would keep them small
   * (default false). That takes about as long as touching them; a GPU reads such memory 2 to 4 % faster (H200, 51.5 and 53.7
   * GB/s).
   */
  readonly hugePages?: boolean
  /** Threads that touch the pages (default: the number of cores, at most 8). */
  readonly threads?: number
  /** Memory node (NUMA) that the pages should come from, as long as it has free ones; ignored on a machine with one node. */
  readonly numaNode?: number
}

/** Bytes moved and the time it took. */
export interface TransferStats {
  readonly bytes: number
  readonly milliseconds: number
}

/** Result of a read of files. */
export interface FileReadStats extends TransferStats {
  /**
   * Digests of the request's `digested`, by index; undefined if none were requested, or if the host computes none while it
   * reads.
   */
  readonly digests?: BigUint64Array
}

export interface FileReadRequest {
  /** Paths, or files that are already open. */
  readonly files: readonly (string | ReadableFile)[]
  readonly memories: readonly HostMemory[]
  /** From `files` (index `source`) into `memories` (index `destination`). */
  readonly reads: readonly ContiguousCopy[]
  /**
   * Ranges of `memories`, without overlap, whose digests (docs/worker-protocol.md, "Digest") are computed while they are filled
   * and still in the processor's caches. The reads must fill every byte of them once.
   */
  readonly digested?: readonly MemoryRange[]
  readonly threads?: number
  /** Called from time to time with the bytes read so far. */
  readonly onProgress?: (bytes: number) => void
  readonly signal?: AbortSignal
}

/** A byte range of one of several memories. */
export interface MemoryRange {
  readonly memory: number
  readonly offset: number
  readonly bytes: number
}

/**
 * Columns per entry of {@link Host.sums}: output (index of the sum), memory, offset, pitch, rowBytes, rows (runs of `rowBytes`,
 * `pitch` bytes apart in the memory), position, positionPitch (positions of those runs in their tensor), unit (1, 2, 4 or 8: it
 * divides rowBytes, position and positionPitch).
 */
export const SUM_COLUMNS = 9

/** A limit on the memory of this process, and its use. Figures in bytes; `Infinity` for none. */
export interface MemoryLimit {
  /** File that holds the limit. */
  readonly file: string
  /** Text for people: `/sys/fs/cgroup/a/memory.max is 2.0 GiB, 1.9 GiB of it used`. */
  readonly text: string
  readonly bytes: number
  readonly used: number
  readonly available: number
}

/** All operations on host memory; native code performs them on its own threads, never on libuv's pool. */
export interface Host {
  /**
   * Bytes of memory available without swapping, as far as the system reports. Memory is taken when it is first touched, so one
   * allocation cannot see the claims of others: a caller that makes several asks for their sum first.
   */
  availableBytes?(): number
  /** Limits on that amount: the kernel's estimate, and the control groups with their ancestors; the tightest first. */
  memoryLimits?(): readonly MemoryLimit[]
  /** Resolves when all memory that was closed so far, and that nothing uses any more, is released to the system. */
  settled?(): Promise<void>
  /** Allocates anonymous memory, on huge pages if the kernel grants them. @throws CkptError `OUT_OF_MEMORY`. */
  allocate(options: AllocateOptions): Promise<HostMemory>
  /** Creates POSIX shared memory, mode 0600. @throws CkptError `OUT_OF_MEMORY`, `INVALID_ARGUMENT` if the name is taken. */
  createShared(name: string, options: AllocateOptions): Promise<HostMemory>
  /**
   * Opens existing POSIX shared memory of this user; writes stay in this process unless it is opened `writable` (default
   * false).
   *
   * @throws CkptError `INVALID_ARGUMENT` if it does not exist, `MEMORY_REFUSED` if it is not memory of this user.
   */
  openShared(name: string, options?: { writable?: boolean; lock?: boolean }): Promise<HostMemory>
  /**
   * Opens memory of a different process. The opened object is checked: it must be a regular file of /dev/shm or a memfd, of
   * this user, and the object that was offered. Nothing else is ever opened for reading or writing. `what` names it in errors.
   *
   * @throws CkptError `MEMORY_REFUSED` naming the field, `MEMORY_CHANGED` naming the file, `OUT_OF_MEMORY`.
   */
  openForeign(memory: ForeignMemory, options: { what: string; writable?: boolean; lock?: boolean }): Promise<HostMemory>
  /**
   * Maps a file in place; writes to the memory never reach the file. @throws CkptError `CHECKPOINT_UNREADABLE` naming the file.
   */
  mapFile(path: string, options?: { lock?: boolean }): Promise<HostMemory>
  /**
   * Opens a regular file below a directory: `path` is relative to it, and neither a link nor `..` in it is followed. Resolves
   * to a descriptor, which the caller closes. Absent if the system does not support this.
   * @throws CkptError `INVALID_ARGUMENT` for a path that leads outside or through a link, `CHECKPOINT_UNREADABLE`; both name
   * the file.
   */
  openBeneath?(directory: number, path: string): Promise<number>
  /**
   * Reads runs of files to their destinations, with one copy.
   * @throws CkptError `CHECKPOINT_UNREADABLE` naming the file and errno (including short files), `CHECKPOINT_CHANGED` naming a
   * file that no longer has its `identity`, `ABORTED` by the signal.
   */
  read(request: FileReadRequest): Promise<FileReadStats>
  /**
   * Copies between memories on several threads; sources and destinations are indices into `memories`.
   *
   * @throws CkptError `INVALID_ARGUMENT` if a copy leaves its memory.
   */
  copy(memories: readonly HostMemory[], copies: StridedCopies, options?: { threads?: number }): Promise<TransferStats>
  /** Computes the 64-bit digest of each range (docs/worker-protocol.md, "Digest"). */
  digest(
    memories: readonly HostMemory[],
    ranges: readonly MemoryRange[],
    options?: { threads?: number },
  ): Promise<BigUint64Array>
  /**
   * Computes sums of the digest's terms over rows of memory that are parts of tensors (docs/worker-protocol.md, "Sums of
   * routes"). `rows` is flat: {@link SUM_COLUMNS} numbers per entry. @throws CkptError `INVALID_ARGUMENT` if a row leaves its
   * memory.
   */
  sums(
    memories: readonly HostMemory[],
    rows: Float64Array,
    outputs: number,
    options?: { threads?: number },
  ): Promise<BigUint64Array>
  /** Fills memory with reproducible pseudo-random bytes (for benchmarks and tests). */
  fill(memory: HostMemory, options: { offset?: number; bytes?: number; seed: bigint; threads?: number }): Promise<void>
}
