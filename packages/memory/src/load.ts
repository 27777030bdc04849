import { realpath } from 'node:fs/promises'
import { setImmediate as yieldToLoop } from 'node:timers/promises'
import {
  CkptError,
  type DeviceReader,
  type Host,
  type HostMemory,
  type MemoryIdentity,
  type SegmentMeta,
  type TensorMeta,
  StridedCopies,
  type StridedCopy,
} from '@ckpt/contract'
import type { OpenedCheckpoint } from '@ckpt/safetensors'
import { allocateAll, type Block, type BlockPool } from './block-pool.ts'
import { copyFromDevices } from './device-copies.ts'
import { layoutFiles, layoutTensors, type Layout } from './layout.ts'
import type { FileShare } from './share.ts'
import { checkRange, type Fill, type TensorSpec } from './source.ts'

const SHARED_MEMORY_DIRECTORY = '/dev/shm/'
/** Bytes that JavaScript copies before it yields to other work: a millisecond or two. */
const COPY_SLICE = 16 * 1024 * 1024

/** Context for loading a checkpoint. */
export interface LoadContext {
  readonly host: Host
  /** Reads GPU memory; absent if the rank's device cannot. */
  readonly reader: DeviceReader | undefined
  /** Source of memory; absent for private memory. */
  readonly pool: BlockPool | undefined
  readonly lock: boolean
  readonly shareable: boolean
  readonly segmentLimit: number
  readonly removeFiles: boolean
  /** Compute digests while files are read. */
  readonly digests: boolean
  readonly signal: AbortSignal
  readonly onProgress: ((bytesDone: number, bytesTotal: number) => void) | undefined
}

/** A loaded checkpoint: blocks by segment index, and the tensors in them. */
export interface Loaded {
  readonly blocks: readonly Block[]
  readonly segments: readonly SegmentMeta[]
  readonly tensors: readonly TensorMeta[]
  /** Digests by tensor, if they were computed while loading. */
  readonly digests?: BigUint64Array | undefined
}

/** @throws CkptError `ABORTED` once `signal` is aborted; its reason if that is a CkptError. */
export function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw CkptError.from(signal.reason, 'ABORTED', 'registration aborted')
}

/**
 * Reads shares of opened files into memory, with one copy per byte, and checks that the files are unchanged. On failure all
 * memory is released.
 */
export async function loadFiles(shares: readonly FileShare[], opened: OpenedCheckpoint, context: LoadContext): Promise<Loaded> {
  const layout = layoutFiles(shares, context.segmentLimit)
  const digested = layout.tensors.map(({ segment, offset, bytes }) => ({ memory: segment, offset, bytes }))
  let digests: BigUint64Array | undefined
  const loaded = await filled(layout, context, false, async (memories) => {
    try {
      if (layout.reads.length > 0) {
        const read = await context.host.read({
          files: shares.map(({ header }) => opened.fileOf(header)),
          memories,
          reads: layout.reads,
          ...(context.digests && { digested }),
          signal: context.signal,
          ...(context.onProgress && { onProgress: (bytes) => context.onProgress?.(bytes, layout.totalBytes) }),
        })
        digests = read.digests
      }
    } catch (error) {
      // If a file was truncated or removed while it was read, that is the error to report.
      if (CkptError.is(error, 'CHECKPOINT_UNREADABLE')) await opened.verify()
      throw error
    }
    await opened.verify()
  })
  return { ...loaded, digests }
}

/** Copies tensors into memory, or lets `fill` write them. On failure all memory is released. */
export async function loadTensors(specs: readonly TensorSpec[], context: LoadContext, fill?: Fill): Promise<Loaded> {
  const layout = layoutTensors(specs, context.segmentLimit)
  const onDevices = specs.some(({ data }) => data.kind === 'device')
  const reader = onDevices ? deviceReader(specs, context) : undefined
  return filled(layout, context, true, async (memories) => {
    const opened = new Map<string, HostMemory>()
    try {
      await fillPlaces(specs, layout, memories, context, fill)
      await copyFromMemories(specs, layout, memories, context, opened)
      if (reader !== undefined) await copyFromDevices(specs, layout, memories, reader, context)
      await copyFromBuffers(specs, layout, memories, context)
    } finally {
      for (const memory of opened.values()) memory.close()
    }
  })
}

async function filled(
  layout: Layout,
  context: LoadContext,
  prefault: boolean,
  fill: (memories: HostMemory[]) => Promise<void>,
): Promise<Loaded> {
  const { lock, shareable } = context
  const blocks =
    context.pool === undefined
      ? (await allocateAll(context.host, layout.segmentBytes, { lock, prefault, shareable })).map(ownBlock)
      : await context.pool.acquire(layout.segmentBytes, prefault)
  try {
    throwIfAborted(context.signal)
    await fill(blocks.map((block) => block.memory))
    throwIfAborted(context.signal)
  } catch (error) {
    releaseAll(blocks)
    throw error
  }
  context.onProgress?.(layout.totalBytes, layout.totalBytes)
  const segments = layout.segmentBytes.map((bytes) => ({ bytes, kind: 'anonymous' as const }))
  return { blocks, segments, tensors: layout.tensors }
}

/** @throws CkptError `UNSUPPORTED` naming the first tensor that cannot be read here. */
function deviceReader(specs: readonly TensorSpec[], { reader }: LoadContext): DeviceReader {
  if (reader !== undefined) return reader
  const { name, data } = specs.find((spec) => spec.data.kind === 'device')!
  const uuid = data.kind === 'device' ? data.source.deviceUuid : ''
  throw new CkptError(
    'UNSUPPORTED',
    `tensor ${JSON.stringify(name)} is on ${uuid}, but this rank's device cannot read GPU memory`,
    {
      fields: { tensor: name, field: 'device' },
    },
  )
}

async function copyFromMemories(
  specs: readonly TensorSpec[],
  layout: Layout,
  segments: readonly HostMemory[],
  { host }: LoadContext,
  opened: Map<string, HostMemory>,
): Promise<void> {
  const memories = [...segments]
  const indexOf = new Map<HostMemory, number>()
  const copies: StridedCopy[] = []
  for (const [i, { name, bytes, data }] of specs.entries()) {
    if (data.kind === 'bytes' || data.kind === 'device' || data.kind === 'fill') continue
    let memory: HostMemory
    if (data.kind === 'memory') memory = data.memory
    else {
      memory = opened.get(data.name) ?? (await openShared(host, name, data))
      opened.set(data.name, memory)
      checkRange(name, memory, data.offset, bytes)
    }
    if (bytes === 0) continue
    let source = indexOf.get(memory)
    if (source === undefined) indexOf.set(memory, (source = memories.push(memory) - 1))
    const { segment, offset } = layout.tensors[i]!
    copies.push({
      source,
      sourceOffset: data.offset,
      sourcePitch: bytes,
      destination: segment,
      destinationOffset: offset,
      destinationPitch: bytes,
      rowBytes: bytes,
      rows: 1,
    })
  }
  if (copies.length > 0) await host.copy(memories, StridedCopies.from(copies))
}

/** Opens memory of a different process by its name in /dev/shm, and checks the opened object. */
async function openShared(
  host: Host,
  tensor: string,
  { name, identity }: { readonly name: string; readonly identity?: MemoryIdentity },
  lock = false,
): Promise<HostMemory> {
  try {
    if (identity === undefined) return await host.openShared(name, { lock })
    const place = { kind: 'shm', path: name } as const
    return await host.openForeign({ place, identity }, { what: `shared memory '${name}'`, lock })
  } catch (error) {
    throw CkptError.is(error) ? error.with({ tensor }) : error
  }
}

async function copyFromBuffers(
  specs: readonly TensorSpec[],
  layout: Layout,
  segments: readonly HostMemory[],
  { signal, onProgress }: LoadContext,
): Promise<void> {
  let done = 0
  for (const { bytes, data } of specs) if (data.kind !== 'bytes') done += bytes
  let slice = 0
  for (const [i, { data }] of specs.entries()) {
    if (data.kind !== 'bytes') continue
    const { segment, offset } = layout.tensors[i]!
    for (let at = 0; at < data.bytes.byteLength;) {
      const length = Math.min(COPY_SLICE - slice, data.bytes.byteLength - at)
      segments[segment]!.view(offset + at, length).set(data.bytes.subarray(at, at + length))
      at += length
      slice += length
      done += length
      if (slice < COPY_SLICE) continue
      slice = 0
      onProgress?.(done, layout.totalBytes)
      await yieldToLoop()
      throwIfAborted(signal)
    }
  }
}

async function fillPlaces(
  specs: readonly TensorSpec[],
  layout: Layout,
  segments: readonly HostMemory[],
  { signal }: LoadContext,
  fill: Fill | undefined,
): Promise<void> {
  const places = specs.flatMap(({ data, bytes }, i) => {
    if (data.kind !== 'fill') return []
    const { segment, offset } = layout.tensors[i]!
    return { memory: segments[segment]!, offset, bytes }
  })
  if (places.length === 0) return
  if (fill === undefined) {
    const { name } = specs.find(({ data }) => data.kind === 'fill')!
    throw new CkptError('INVALID_ARGUMENT', `tensor ${JSON.stringify(name)}: the source has no fill, which would write it`, {
      fields: { tensor: name, field: 'fill' },
    })
  }
  await fill(places, signal)
}

/** Maps files in /dev/shm in place: each file, including its header, is a segment. */
export async function mapFiles(shares: readonly FileShare[], opened: OpenedCheckpoint, context: LoadContext): Promise<Loaded> {
  const paths = await Promise.all(shares.map(({ header }) => sharedMemoryPath(header.file)))
  const blocks = await mapAll(paths, context)
  try {
    throwIfAborted(context.signal)
    const tensors = shares.flatMap(({ header, first, last }, segment) => {
      const { memory } = blocks[segment]!
      if (memory.bytes !== header.fileBytes) {
        throw new CkptError('CHECKPOINT_UNREADABLE', `${header.file}: the size of the file changed during its registration`, {
          fields: { file: header.file },
        })
      }
      return header.tensors.slice(first, last).map(({ name, dtype, shape, begin, end }) => ({
        name,
        dtype,
        shape,
        bytes: end - begin,
        segment,
        offset: header.dataStart + begin,
      }))
    })
    await opened.verify()
    return finishInPlace(blocks, tensors, context)
  } catch (error) {
    releaseAll(blocks)
    throw error
  }
}

/** Returns the file's real path, with links resolved, which must be in /dev/shm. */
async function sharedMemoryPath(file: string): Promise<string> {
  const path = await realpath(file).catch((error: unknown) => {
    throw CkptError.from(error, 'CHECKPOINT_UNREADABLE', file, { file })
  })
  if (path.startsWith(SHARED_MEMORY_DIRECTORY)) return path
  throw new CkptError('INVALID_ARGUMENT', `${file}: only files in ${SHARED_MEMORY_DIRECTORY} can be used in place`, {
    fields: { file, field: 'inPlace' },
  })
}

/** Maps shared memory in place; every tensor must be in shared memory given by name. */
export async function mapTensors(specs: readonly TensorSpec[], context: LoadContext): Promise<Loaded> {
  const segmentOf = new Map<string, number>()
  for (const { name, data } of specs) {
    if (data.kind !== 'shared') {
      throw new CkptError(
        'INVALID_ARGUMENT',
        `tensor ${JSON.stringify(name)}: only shared memory given by name can be used in place`,
        {
          fields: { tensor: name, field: 'inPlace' },
        },
      )
    }
    if (!/^[^/]+$/.test(data.name) || data.name === '.' || data.name === '..') {
      throw new CkptError(
        'INVALID_ARGUMENT',
        `tensor ${JSON.stringify(name)}: ${JSON.stringify(data.name)} is not a name of shared memory`,
        {
          fields: { tensor: name, field: 'shared' },
        },
      )
    }
    if (!segmentOf.has(data.name)) segmentOf.set(data.name, segmentOf.size)
  }
  const { host, lock } = context
  const first = [...segmentOf.keys()].map((name) => specs.find(({ data }) => data.kind === 'shared' && data.name === name)!)
  const blocks = await allBlocks(
    first.map(({ name, data }) =>
      openShared(host, name, data as TensorSpec['data'] & { kind: 'shared' }, lock).catch((error: unknown) => {
        throw CkptError.is(error, 'INVALID_ARGUMENT')
          ? new CkptError('CHECKPOINT_UNREADABLE', error.message, { cause: error, fields: error.fields })
          : error
      }),
    ),
  )
  try {
    throwIfAborted(context.signal)
    const tensors = specs.flatMap(({ name, dtype, shape, bytes, data }) => {
      if (data.kind !== 'shared') return []
      const segment = segmentOf.get(data.name)!
      checkRange(name, blocks[segment]!.memory, data.offset, bytes)
      return { name, dtype, shape, bytes, segment, offset: data.offset }
    })
    return finishInPlace(blocks, tensors, context)
  } catch (error) {
    releaseAll(blocks)
    throw error
  }
}

function mapAll(paths: readonly string[], { host, lock }: LoadContext): Promise<Block[]> {
  return allBlocks(paths.map((path) => host.mapFile(path, { lock })))
}

/** All of them or none. */
async function allBlocks(memories: readonly Promise<HostMemory>[]): Promise<Block[]> {
  const results = await Promise.allSettled(memories)
  const failed = results.find((result) => result.status === 'rejected')
  const blocks = results.flatMap((result) => (result.status === 'fulfilled' ? [ownBlock(result.value)] : []))
  if (failed === undefined) return blocks
  releaseAll(blocks)
  throw CkptError.from(failed.reason, 'CHECKPOINT_UNREADABLE')
}

/** Runs last, and nothing fails after it, so the files still exist after any failure. */
function finishInPlace(blocks: readonly Block[], tensors: readonly TensorMeta[], context: LoadContext): Loaded {
  if (context.removeFiles) for (const { memory } of blocks) memory.unlink()
  const total = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0)
  context.onProgress?.(total, total)
  return { blocks, segments: blocks.map(({ memory }) => ({ bytes: memory.bytes, kind: 'file' as const })), tensors }
}

/** Memory that returns to the system when released. */
export function ownBlock(memory: HostMemory): Block {
  return { memory, release: () => memory.close() }
}

/** Releases all blocks. */
export function releaseAll(blocks: readonly Block[]): void {
  for (const block of blocks) block.release()
}
