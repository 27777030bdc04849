import type { ContiguousCopy, FileReadRequest, Host, HostMemory, FileReadStats } from '@ckpt/contract'
import pLimit from 'p-limit'
import { SLICE_BYTES } from './memory.ts'

/** Slices that are read at once, so that the threads of a nearly full one help with the next. */
const SLICES_AT_ONCE = 2

/** Memory that is pinned slice by slice. */
interface Pinnable {
  /** Slices that are not pinned yet, ascending. */
  readonly unpinned: readonly number[]
  pin(slice: number): Promise<void>
}

/** The reads that fill one slice of one memory. */
interface SliceReads {
  readonly memory: number
  readonly slice: number
  readonly reads: ContiguousCopy[]
}

/**
 * Reads files into memory on `threads` threads, and pins memory that is not pinned yet after reading: while slices are filled,
 * the driver pins the previous one. Both take about as long, so together they take little more than the slower of them.
 *
 * @throws the errors of `host.read`, once nothing is read any more; pinned slices stay so until the memory is closed.
 */
export async function readAndPin(host: Host, request: FileReadRequest & { threads: number }): Promise<FileReadStats> {
  const deferred = request.memories.map((memory) => isPinnable(memory) && memory.unpinned.length > 0)
  if (!deferred.includes(true)) return host.read(request)
  const started = performance.now()
  const threads = Math.ceil(request.threads / SLICES_AT_ONCE)
  const limit = pLimit(SLICES_AT_ONCE)
  const pins: Promise<void>[] = []
  const pin = (memory: Pinnable, slice: number) => {
    const pinned = memory.pin(slice)
    pinned.catch(() => undefined) // waited for below, after the reading
    pins.push(pinned)
  }
  let done = 0
  let failed = false
  const fill = async ({ memory, slice, reads }: SliceReads): Promise<void> => {
    if (failed) return
    let told = 0
    const onProgress = (read: number) => {
      done += read - told
      told = read
      request.onProgress?.(done)
    }
    // Tensors cross slices, so their digests are computed afterwards.
    await host
      .read({ ...request, ...ofTheirFiles(request.files, reads), digested: [], threads, onProgress })
      .catch((error: unknown) => {
        failed = true
        throw error
      })
    const target = request.memories[memory]!
    if (slice >= 0 && isPinnable(target)) pin(target, slice)
  }
  const reads = await Promise.allSettled(bySlice(request.reads, deferred).map((group) => limit(() => fill(group))))
  const failure = reads.find((read) => read.status === 'rejected')
  if (failure === undefined) {
    // Slices without a read.
    for (const memory of request.memories) {
      if (isPinnable(memory)) for (const slice of memory.unpinned) pin(memory, slice)
    }
  }
  const settled = await Promise.allSettled(pins)
  const problem = failure ?? settled.find((pin) => pin.status === 'rejected')
  if (problem !== undefined) throw problem.reason
  return { bytes: done, milliseconds: performance.now() - started }
}

const isPinnable = (memory: HostMemory): memory is HostMemory & Pinnable => 'unpinned' in memory

/** Only the files that are read, because each call opens all that it is given. */
function ofTheirFiles(
  files: FileReadRequest['files'],
  reads: readonly ContiguousCopy[],
): Pick<FileReadRequest, 'files' | 'reads'> {
  const used = [...new Set(reads.map(({ source }) => source))]
  const place = new Map(used.map((file, index) => [file, index]))
  return { files: used.map((file) => files[file]!), reads: reads.map((read) => ({ ...read, source: place.get(read.source)! })) }
}

/**
 * Returns reads split at slice boundaries and grouped by slice, in the order of memories and slices; those into memory that is
 * not deferred are a separate group, slice -1.
 */
export function bySlice(reads: readonly ContiguousCopy[], deferred: readonly boolean[]): SliceReads[] {
  const groups = new Map<string, SliceReads>()
  const add = (slice: number, read: ContiguousCopy) => {
    const key = slice < 0 ? 'whole' : `${read.destination}/${slice}`
    const group = groups.get(key)
    if (group) group.reads.push(read)
    else groups.set(key, { memory: read.destination, slice, reads: [read] })
  }
  for (const read of reads) {
    if (deferred[read.destination] !== true) {
      add(-1, read)
      continue
    }
    for (let at = 0; at < read.bytes;) {
      const slice = Math.floor((read.destinationOffset + at) / SLICE_BYTES)
      const bytes = Math.min(read.bytes - at, (slice + 1) * SLICE_BYTES - read.destinationOffset - at)
      add(slice, { ...read, sourceOffset: read.sourceOffset + at, destinationOffset: read.destinationOffset + at, bytes })
      at += bytes
    }
  }
  return [...groups.values()].sort((a, b) => a.memory - b.memory || a.slice - b.slice)
}
