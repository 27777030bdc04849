import type { FileRead, FileReadRequest, Host, TransferStats } from '@ckpt/contract'
import { CudaHostMemory, SLICE_BYTES } from './memory.ts'

/** The reads that fill one slice of one memory. */
interface SliceReads {
  readonly memory: number
  readonly slice: number
  readonly reads: FileRead[]
}

/**
 * Reads files into memory, and pins what is not pinned yet behind the reading: while several threads fill a slice, the driver pins
 * the one before. Both take about as long, so together they take little more than the slower of them.
 *
 * @throws what `host.read` throws; slices that were pinned stay so until the memory is closed.
 */
export async function readAndPin(host: Host, request: FileReadRequest): Promise<TransferStats> {
  const deferred = request.memories.map((memory) => memory instanceof CudaHostMemory && memory.unpinned.length > 0)
  if (!deferred.includes(true)) return host.read(request)
  const started = performance.now()
  const { onProgress } = request
  let done = 0
  // One slice at a time: the driver does not pin faster on several threads.
  let pinned: Promise<void> = Promise.resolve()
  const pin = (memory: CudaHostMemory, slice: number) => {
    pinned = pinned.then(() => memory.pin(slice))
    pinned.catch(() => undefined) // waited for below, after the reading
  }
  for (const { memory, slice, reads } of bySlice(request.reads, deferred)) {
    const before = done
    const { bytes } = await host.read({
      ...request,
      reads,
      ...(onProgress && { onProgress: (read) => onProgress(before + read) }),
    })
    done += bytes
    const target = request.memories[memory]!
    if (slice >= 0 && target instanceof CudaHostMemory) pin(target, slice)
  }
  await pinned
  for (const memory of request.memories) {
    if (memory instanceof CudaHostMemory) for (const slice of memory.unpinned) await memory.pin(slice) // what no read falls into
  }
  return { bytes: done, milliseconds: performance.now() - started }
}

/**
 * Reads cut at slice boundaries and grouped by slice, in the order of memories and slices; those into memory that is not deferred
 * are one group of its own, slice -1.
 */
export function bySlice(reads: readonly FileRead[], deferred: readonly boolean[]): SliceReads[] {
  const groups = new Map<string, SliceReads>()
  const add = (slice: number, read: FileRead) => {
    const key = slice < 0 ? 'whole' : `${read.memory}/${slice}`
    const group = groups.get(key)
    if (group) group.reads.push(read)
    else groups.set(key, { memory: read.memory, slice, reads: [read] })
  }
  for (const read of reads) {
    if (deferred[read.memory] !== true) {
      add(-1, read)
      continue
    }
    for (let at = 0; at < read.bytes;) {
      const slice = Math.floor((read.memoryOffset + at) / SLICE_BYTES)
      const bytes = Math.min(read.bytes - at, (slice + 1) * SLICE_BYTES - read.memoryOffset - at)
      add(slice, { ...read, fileOffset: read.fileOffset + at, memoryOffset: read.memoryOffset + at, bytes })
      at += bytes
    }
  }
  return [...groups.values()].sort((a, b) => a.memory - b.memory || a.slice - b.slice)
}
