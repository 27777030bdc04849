/**
 * The native addon as it is: synchronous checks, promises for everything that takes time. Errors carry `code` (of
 * `@ckpt/contract`'s codes) and, where known, `errno`, `file`, `field`, `peer` and `index`. `@ckpt/transport` is the typed way to use it.
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
  /** Other processes of the user can map it, by its `name`. */
  readonly shareable?: boolean | undefined
  readonly hugePages?: boolean | undefined
  readonly threads?: number | undefined
  /** Memory node that the pages should come from. */
  readonly numaNode?: number | undefined
}

/** What the addon exports. Lists of rows go in flat, as one Float64Array whose columns each function names. */
export interface NativeHost extends NativeLimits, NativePipelines, NativeOneSided {
  allocate(options: NativeAllocateOptions): Promise<NativeMemory>
  createShared(name: string, options: NativeAllocateOptions): Promise<NativeMemory>
  openShared(name: string, writable?: boolean, lock?: boolean): Promise<NativeMemory>
  /** Memory of another process of this user, checked on the opened descriptor. `what` names it in errors. */
  openForeign(
    place: NativePlace,
    identity: { readonly device: string; readonly inode: string; readonly bytes: number; readonly modified?: string },
    what: string,
    writable?: boolean,
    lock?: boolean,
  ): Promise<NativeMemory>
  mapFile(path: string, lock?: boolean, writable?: boolean): Promise<NativeMemory>
  /** Puts pages that exist (those of a file in memory) into the page table. */
  populateRead(memory: NativeMemory, offset: number, bytes: number, threads?: number): Promise<void>
  newCancellation(): NativeCancellation
  /** Opens a regular file beneath a directory's descriptor, following no link. Resolves with a descriptor, which the caller closes. */
  openBeneath(directory: number, path: string): Promise<number>
  /**
   * `reads`: the columns of ContiguousCopies, from `files` into `memories`. `descriptors`: of each file, -1 for one to be opened by its path.
   * `identities`: device, inode, bytes, modified and changed (nanoseconds) of each file, zeros where it may be any.
   * `digested`: memory, offset, bytes of each range whose digest is made.
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
  /** `copies`: source, sourceOffset, sourcePitch, destination, destinationOffset, destinationPitch, rowBytes, rows of each. */
  copy(memories: readonly NativeMemory[], copies: Float64Array, threads?: number): Promise<number>
  /** `ranges`: memory, offset, bytes of each. */
  digest(memories: readonly NativeMemory[], ranges: Float64Array, threads?: number): Promise<BigUint64Array>
  /** `rows`: output, memory, offset, pitch, rowBytes, rows, position, positionPitch, unit of each. */
  sums(memories: readonly NativeMemory[], rows: Float64Array, outputs: number, threads?: number): Promise<BigUint64Array>
  fill(memory: NativeMemory, offset: number, bytes: number, seed: bigint, threads?: number): Promise<void>
  /** True if any process, of whichever namespace, has this file of the user open or mapped; undefined where the kernel does not tell. */
  inUse(path: string): boolean | undefined
  /**
   * Removes a file, or a directory with the files in it, when the thread's environment ends (a worker thread that is terminated too), unless the
   * function returned was called before.
   */
  removeAtEnd(path: string): () => void
}

/** The addon; loaded at the first call. @throws Error with code ADDON_UNAVAILABLE whose message lists the fixes. */
export function loadNativeHost(): NativeHost
