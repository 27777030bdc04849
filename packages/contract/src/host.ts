import type { ContiguousCopy, StridedCopies } from './copy-lists.ts'
import type { ReadableFile } from './file-identity.ts'
import type { ForeignMemory, MemoryIdentity } from './memory-identity.ts'

/** A range of host memory with a stable address. It stays mapped until {@link HostMemory.close}, and until native users are done. */
export interface HostMemory {
  readonly bytes: number
  readonly kind: 'anonymous' | 'shared' | 'file'
  /** Name in /dev/shm (without the leading slash) of `shared` memory; path of a `file`, and of `anonymous` memory that is shareable. */
  readonly name: string | undefined
  /** What it is, for other processes that open it; absent for private memory. `descriptor`: of this process, where it keeps one. */
  readonly identity?: (MemoryIdentity & { readonly descriptor?: number }) | undefined
  /**
   * Checks that what is mapped is what was mapped: not cut short, and where it is a file in place, not written to. A name that means another
   * file by now does no harm.
   *
   * @throws CkptError `MEMORY_CHANGED` naming the file.
   */
  assertIntact?(): void
  /** Whether the pages are locked in memory; where they are not, `lockError` says why. */
  readonly locked: boolean
  readonly lockError: string | undefined
  /**
   * Bytes offset … offset + length - 1 without a copy. The view is detached (length 0) by `close`.
   * @throws RangeError outside the memory.
   */
  view(offset: number, length: number): Buffer
  /** Removes the name of `shared` memory, or a `file` in /dev/shm, from the file system; the memory stays usable. */
  unlink(): void
  /** Gives the memory back once running native operations on it are over. Calling it again does nothing. */
  close(): void
}

export interface AllocateOptions {
  /** Size in bytes, above 0. */
  readonly bytes: number
  /** Lock the pages in memory (default true). A refusal is reported in `lockError`, not thrown. */
  readonly lock?: boolean
  /** Touch every page before returning (default true). Pass false when a read follows that fills all of it. */
  readonly prefault?: boolean
  /**
   * Other processes of this user can map it by the path in its `name`, while it is open (default false). Its pages are those of shared
   * memory, which the kernel may keep smaller.
   */
  readonly shareable?: boolean
  /**
   * Puts the pages of shareable memory together into huge ones before they are filled, where the kernel would keep them small (default
   * false). That takes about as long as touching them; a GPU read such memory 2 to 4 % faster (H200, 51.5 and 53.7 GB/s).
   */
  readonly hugePages?: boolean
  /** Threads that touch the pages (default: the number of cores, at most 8). */
  readonly threads?: number
  /** Memory node (NUMA) that the pages should come from, as long as it has any; nothing on a machine with one node. */
  readonly numaNode?: number
}

/** Bytes moved and how long it took. */
export interface TransferStats {
  readonly bytes: number
  readonly milliseconds: number
}

/** What a read of files has brought. */
export interface FileReadStats extends TransferStats {
  /** Of the request's `digested`, by index; undefined where none were asked for, or the host makes none while it reads. */
  readonly digests?: BigUint64Array
}

export interface FileReadRequest {
  /** Paths, or files that were opened before. */
  readonly files: readonly (string | ReadableFile)[]
  readonly memories: readonly HostMemory[]
  /** From `files` (index `source`) into `memories` (index `destination`). */
  readonly reads: readonly ContiguousCopy[]
  /**
   * Ranges of `memories`, none of which overlap, whose digests (docs/worker-protocol.md, "Digest") are made while they are filled: they are in
   * the processor's caches then. The reads must fill every byte of them once.
   */
  readonly digested?: readonly MemoryRange[]
  readonly threads?: number
  /** Called now and then with the bytes read so far. */
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
 * Columns per entry of {@link Host.sums}: output (index of the sum), memory, offset, pitch, rowBytes, rows (runs of `rowBytes`, `pitch`
 * bytes apart in the memory), position, positionPitch (where those runs lie in their tensor), unit (1, 2, 4 or 8: it divides rowBytes,
 * position and positionPitch).
 */
export const SUM_COLUMNS = 9

/** A limit on the memory of this process, and how much of it is used. Figures in bytes; `Infinity` for none. */
export interface MemoryLimit {
  /** The file that holds the number. */
  readonly file: string
  /** For people: `/sys/fs/cgroup/a/memory.max is 2.0 GiB, 1.9 GiB of it used`. */
  readonly text: string
  readonly bytes: number
  readonly used: number
  readonly available: number
}

/** Everything ckpt does with host memory; done natively on threads of its own, never on libuv's pool. */
export interface Host {
  /**
   * Bytes of memory that can be had now without swapping, as far as the system tells. Memory is taken as it is first touched, so that
   * one allocation cannot see what others have promised: who makes several asks for their sum first.
   */
  availableBytes?(): number
  /** What limits that: the kernel's estimate, and the control groups with their ancestors; the tightest first. */
  memoryLimits?(): readonly MemoryLimit[]
  /** Resolves when memory that was closed so far, and that nothing uses any more, is back with the system. */
  settled?(): Promise<void>
  /** Anonymous memory on huge pages where the kernel grants them. @throws CkptError `OUT_OF_MEMORY`. */
  allocate(options: AllocateOptions): Promise<HostMemory>
  /** New POSIX shared memory, mode 0600. @throws CkptError `OUT_OF_MEMORY`, `INVALID_ARGUMENT` when the name is taken. */
  createShared(name: string, options: AllocateOptions): Promise<HostMemory>
  /**
   * Existing POSIX shared memory of this user; what is written to it stays in this process unless it is opened `writable` (default false).
   *
   * @throws CkptError `INVALID_ARGUMENT` when it is not there, `MEMORY_REFUSED` when it is no memory of this user.
   */
  openShared(name: string, options?: { writable?: boolean; lock?: boolean }): Promise<HostMemory>
  /**
   * Memory of another process, checked on what was opened: a regular file of /dev/shm or a memfd, of this user, and the very object that was
   * offered. Nothing else is ever opened for reading or writing. `what` names it in errors.
   *
   * @throws CkptError `MEMORY_REFUSED` naming the field, `MEMORY_CHANGED` naming the file, `OUT_OF_MEMORY`.
   */
  openForeign(memory: ForeignMemory, options: { what: string; writable?: boolean; lock?: boolean }): Promise<HostMemory>
  /** A file mapped in place; what is written to the memory never reaches the file. @throws CkptError `CHECKPOINT_UNREADABLE` naming the file. */
  mapFile(path: string, options?: { lock?: boolean }): Promise<HostMemory>
  /**
   * Opens a regular file beneath a directory: `path` is relative to it, and neither a link nor `..` in it is followed. Resolves with a
   * descriptor, which the caller closes. Absent where the system cannot do so.
   * @throws CkptError `INVALID_ARGUMENT` for a path that leads out or through a link, `CHECKPOINT_UNREADABLE`; both name the file.
   */
  openBeneath?(directory: number, path: string): Promise<number>
  /**
   * Reads runs of files to where they belong, with one copy.
   * @throws CkptError `CHECKPOINT_UNREADABLE` naming the file and errno (short files included), `CHECKPOINT_CHANGED` naming a file that
   * is not the one of its `identity` any more, `ABORTED` by the signal.
   */
  read(request: FileReadRequest): Promise<FileReadStats>
  /**
   * Copies between memories on several threads; sources and destinations are indices into `memories`.
   *
   * @throws CkptError `INVALID_ARGUMENT` when a copy leaves its memory.
   */
  copy(memories: readonly HostMemory[], copies: StridedCopies, options?: { threads?: number }): Promise<TransferStats>
  /** 64-bit digest of each range (docs/worker-protocol.md, "Digest"). */
  digest(
    memories: readonly HostMemory[],
    ranges: readonly MemoryRange[],
    options?: { threads?: number },
  ): Promise<BigUint64Array>
  /**
   * Sums of the digest's terms over rows of memory that are parts of tensors (docs/worker-protocol.md, "Sums of routes"). `rows` is
   * flat: {@link SUM_COLUMNS} numbers an entry. @throws CkptError `INVALID_ARGUMENT` when a row leaves its memory.
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
