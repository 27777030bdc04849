/**
 * The native addon itself: synchronous checks, and promises for everything that takes time. Errors carry `code` (one of
 * `@ckpt/contract`'s codes) and, if known, `errno`, `file`, `field`, `peer` and `index`. `@ckpt/transport` is the typed
 * interface to it.
 */

import type { NativeCancellation } from './cancellation.d.ts'
import type { NativeLimits } from './limits.d.ts'
import type { NativeMemory, NativePlace } from './memory.d.ts'
import type { NativeOneSided } from './one-sided.d.ts'
import type { NativePipelines } from './pipeline.d.ts'

export type { NativeCancellation } from './cancellation.d.ts'
export type { NativeLimits, NativeMemoryLimit } from './limits.d.ts'
export type { NativeIdentity, NativeMemory, NativePlace } from './memory.d.ts'
export type { NativeOneSided, NativeTcpEndpoint, NativeTcpPeer } from './one-sided.d.ts'
export type { NativePipeline, NativePipelineJob, NativePipelines, NativePipelineStats } from './pipeline.d.ts'

export interface NativeAllocateOptions {
  readonly bytes: number
  readonly lock?: boolean | undefined
  readonly prefault?: boolean | undefined
  /** Other processes of the user can map it by its `name`. */
  readonly shareable?: boolean | undefined
  readonly hugePages?: boolean | undefined
  readonly threads?: number | undefined
  /** NUMA node that the pages should come from. */
  readonly numaNode?: number | undefined
}

/** The addon's exports. Lists of rows are passed flat, as one Float64Array; each function names its columns. */
export interface NativeHost extends NativeLimits, NativePipelines, NativeOneSided {
  allocate(options: NativeAllocateOptions): Promise<NativeMemory>
  createShared(name: string, options: NativeAllocateOptions): Promise<NativeMemory>
  openShared(name: string, writable?: boolean, lock?: boolean): Promise<NativeMemory>
  /** Memory of another process of this user, checked after its descriptor was opened. `what` names it in errors. */
  openForeign(
    place: NativePlace,
    identity: { readonly device: string; readonly inode: string; readonly bytes: number; readonly modified?: string },
    what: string,
    writable?: boolean,
    lock?: boolean,
  ): Promise<NativeMemory>
  mapFile(path: string, lock?: boolean, writable?: boolean): Promise<NativeMemory>
  /** Maps existing pages (those of a file in memory) in the page table. */
  populateRead(memory: NativeMemory, offset: number, bytes: number, threads?: number): Promise<void>
  newCancellation(): NativeCancellation
  /**
   * Opens a regular file below a directory's descriptor without following links. Resolves with a descriptor, which the caller
   * closes.
   */
  openBeneath(directory: number, path: string): Promise<number>
  /**
   * `reads`: the columns of ContiguousCopies, from `files` into `memories`. `descriptors`: one for each file, -1 to open the
   * file by its path. `identities`: device, inode, bytes, modified and changed (nanoseconds) of each file, zeros to accept any.
   * `digested`: memory, offset and bytes of each range to compute a digest of.
   */
  read(
    files: readonly string[],
    memories: readonly NativeMemory[],
    reads: Float64Array,
    threads?: number,
    onProgress?: (bytes: number) => void,
    cancellation?: NativeCancellation,
    descriptors?: Int32Array,
    identities?: BigUint64Array,
    digested?: Float64Array,
  ): Promise<{ readonly bytes: number; readonly digests: BigUint64Array }>
  /**
   * `copies`: source, sourceOffset, sourcePitch, destination, destinationOffset, destinationPitch, rowBytes and rows of each.
   */
  copy(memories: readonly NativeMemory[], copies: Float64Array, threads?: number): Promise<number>
  /** `ranges`: memory, offset and bytes of each. */
  digest(memories: readonly NativeMemory[], ranges: Float64Array, threads?: number): Promise<BigUint64Array>
  /** `rows`: output, memory, offset, pitch, rowBytes, rows, position, positionPitch and unit of each. */
  sums(memories: readonly NativeMemory[], rows: Float64Array, outputs: number, threads?: number): Promise<BigUint64Array>
  fill(memory: NativeMemory, offset: number, bytes: number, seed: bigint, threads?: number): Promise<void>
  /**
   * True if any process, in any namespace, has this file of the user open or mapped; undefined if the kernel does not report
   * it.
   */
  inUse(path: string): boolean | undefined
  /**
   * Removes a file, or a directory with its files, when the thread's environment ends (also if a worker thread is terminated),
   * unless the returned function was called before.
   */
  removeAtEnd(path: string): () => void
}

/** The addon; loaded at the first call. @throws Error with code ADDON_UNAVAILABLE; its message lists the fixes. */
export function loadNativeHost(): NativeHost
