import {
  CkptError,
  ContiguousCopies,
  type AllocateOptions,
  type FileIdentity,
  type FileReadRequest,
  type ForeignMemory,
  type Host,
  type HostMemory,
  type MemoryLimit,
  type MemoryPlace,
  type MemoryRange,
  type ReadableFile,
  type FileReadStats,
  type TransferStats,
  type StridedCopies,
} from '@ckpt/contract'
import type { NativeHost, NativePlace } from '@ckpt/native-host'
import { onAbort } from '@ckpt/utils'
import { hostAddon, native } from '../addon.ts'
import { NativeHostMemory, nativeMemory } from './memory.ts'

/** The {@link Host} of this process, on the native addon. @throws CkptError `ADDON_UNAVAILABLE` naming what is missing. */
export function createHost(): Host {
  return new AddonHost(hostAddon())
}

class AddonHost implements Host {
  readonly #addon: NativeHost

  constructor(addon: NativeHost) {
    this.#addon = addon
  }

  availableBytes(): number {
    return this.#addon.availableBytes()
  }

  memoryLimits(): readonly MemoryLimit[] {
    return this.#addon.memoryLimits()
  }

  async allocate(options: AllocateOptions): Promise<HostMemory> {
    return new NativeHostMemory(await native(() => this.#addon.allocate(options)))
  }

  async createShared(name: string, options: AllocateOptions): Promise<HostMemory> {
    return new NativeHostMemory(await native(() => this.#addon.createShared(name, options)))
  }

  async openShared(name: string, { writable, lock }: { writable?: boolean; lock?: boolean } = {}): Promise<HostMemory> {
    return new NativeHostMemory(await native(() => this.#addon.openShared(name, writable, lock)))
  }

  async openForeign(memory: ForeignMemory, options: { what: string; writable?: boolean; lock?: boolean }): Promise<HostMemory> {
    const { place, identity } = memory
    const { what, writable, lock } = options
    return new NativeHostMemory(await native(() => this.#addon.openForeign(nativePlace(place), identity, what, writable, lock)))
  }

  async mapFile(path: string, options: { lock?: boolean; writable?: boolean } = {}): Promise<HostMemory> {
    return new NativeHostMemory(await native(() => this.#addon.mapFile(path, options.lock, options.writable)))
  }

  openBeneath(directory: number, path: string): Promise<number> {
    return native(() => this.#addon.openBeneath(directory, path))
  }

  async read({ files, memories, reads, digested, threads, onProgress, signal }: FileReadRequest): Promise<FileReadStats> {
    if (signal?.aborted) throw aborted(signal)
    const { columns } = ContiguousCopies.from(reads)
    const ranges = rangeRows(digested ?? [])
    const opened = files.map((file): ReadableFile => (typeof file === 'string' ? { path: file } : file))
    const cancellation = this.#addon.newCancellation()
    const stopListening = onAbort(signal, () => cancellation.cancel())
    try {
      const started = performance.now()
      const { bytes, digests } = await native(() =>
        this.#addon.read(
          opened.map(({ path }) => path),
          memories.map(nativeMemory),
          columns,
          threads,
          rising(onProgress),
          cancellation,
          Int32Array.from(opened, ({ descriptor }) => descriptor ?? -1),
          BigUint64Array.from(opened.flatMap(({ identity }) => identityColumns(identity))),
          ranges,
        ),
      )
      onProgress?.(bytes)
      return { bytes, milliseconds: performance.now() - started, ...(digested && { digests }) }
    } catch (error) {
      throw signal !== undefined && CkptError.is(error, 'ABORTED') ? aborted(signal) : error
    } finally {
      stopListening()
    }
  }

  async copy(
    memories: readonly HostMemory[],
    copies: StridedCopies,
    options: { threads?: number } = {},
  ): Promise<TransferStats> {
    return timed(() => this.#addon.copy(memories.map(nativeMemory), copies.columns, options.threads))
  }

  async digest(
    memories: readonly HostMemory[],
    ranges: readonly MemoryRange[],
    options: { threads?: number } = {},
  ): Promise<BigUint64Array> {
    return native(() => this.#addon.digest(memories.map(nativeMemory), rangeRows(ranges), options.threads))
  }

  async sums(
    memories: readonly HostMemory[],
    rows: Float64Array,
    outputs: number,
    options: { threads?: number } = {},
  ): Promise<BigUint64Array> {
    return native(() => this.#addon.sums(memories.map(nativeMemory), rows, outputs, options.threads))
  }

  async fill(memory: HostMemory, options: { offset?: number; bytes?: number; seed: bigint; threads?: number }): Promise<void> {
    const offset = options.offset ?? 0
    const bytes = options.bytes ?? memory.bytes - offset
    await native(() => this.#addon.fill(nativeMemory(memory), offset, bytes, options.seed, options.threads))
  }
}

/** Returns an identity in the addon's form; zeros if any file is allowed. */
function identityColumns(identity: FileIdentity | undefined): bigint[] {
  if (identity === undefined) return [0n, 0n, 0n, 0n, 0n]
  const { device, inode, bytes, modifiedNs, changedNs } = identity
  return [device, inode, bytes, modifiedNs, changedNs].map((value) => BigInt.asUintN(64, value))
}

function nativePlace(place: MemoryPlace): NativePlace {
  if (place.kind === 'shm') return { path: place.path }
  const [namespace = '', start = ''] = place.process.mark.split(':')
  return { pid: place.process.pid, namespace, start, descriptor: place.descriptor }
}

function rangeRows(ranges: readonly MemoryRange[]): Float64Array {
  const rows = new Float64Array(ranges.length * 3)
  ranges.forEach(({ memory, offset, bytes }, index) => {
    rows.set([memory, offset, bytes], index * 3)
  })
  return rows
}

async function timed(transfer: () => Promise<number>): Promise<TransferStats> {
  const start = performance.now()
  const bytes = await native(transfer)
  return { bytes, milliseconds: performance.now() - start }
}

function aborted(signal: AbortSignal): CkptError {
  return new CkptError('ABORTED', 'reading files was aborted', { cause: signal.reason })
}

/** Several threads report their common progress, and a lower figure may arrive after a higher one: it is left out. */
function rising(onProgress: ((bytes: number) => void) | undefined): ((bytes: number) => void) | undefined {
  if (onProgress === undefined) return undefined
  let most = -1
  return (bytes) => {
    if (bytes <= most) return
    most = bytes
    onProgress(bytes)
  }
}
