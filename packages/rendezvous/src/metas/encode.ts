import { CkptError, DTYPES, tensorBytes, type Blob, type RankMetas, type TensorTable } from '@ckpt/contract'
import { alignUp } from '@ckpt/utils'

import { ByteWriter, columnWidth } from './bytes.ts'
import { FLAG_DIGESTS, MAGIC, MAX_DIMENSIONS, MAX_TEXT, metasDigest, SEGMENT_KINDS, VERSION } from './format.ts'
import { writeNames } from './names.ts'

const ALIGNMENTS_LOG2 = [0, 3, 4, 5, 6, 7, 8, 9, 12, 21]
const ALIGNMENT_SAMPLE = 2048

/**
 * Encodes one rank's metas as a compact payload with its digest (format: ./format.ts). The payload is new memory and must not
 * be changed.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the field or tensor if the metas contradict themselves: a tensor outside its
 * segment, a size that does not follow from dtype and shape, columns of different lengths, an overlong or ill-formed name.
 */
export function encodeRankMetas(metas: Omit<RankMetas, 'digest'>): Blob {
  const { tensors } = metas
  checkColumns(tensors)
  const writer = new ByteWriter(4096 + tensors.count * 12)
  writer.u32(MAGIC)
  writer.u16(VERSION)
  writer.u16(tensors.digests ? FLAG_DIGESTS : 0)
  if (!Number.isSafeInteger(metas.rank) || metas.rank < 0) throw invalid('rank', `rank ${metas.rank}`)
  writer.varint(metas.rank)
  writeText(writer, 'host', metas.host)
  writeText(writer, 'deviceUuid', metas.deviceUuid)

  writer.varint(metas.segments.length)
  for (const segment of metas.segments) {
    if (!Number.isSafeInteger(segment.bytes) || segment.bytes < 0)
      throw invalid('segments', `a segment of ${segment.bytes} bytes`)
    writer.u8(SEGMENT_KINDS.indexOf(segment.kind))
    writer.varint(segment.bytes)
  }
  writer.varint(tensors.shapes.length)
  for (const shape of tensors.shapes) {
    if (shape.length > MAX_DIMENSIONS) throw invalid('shapes', `a shape of ${shape.length} dimensions`)
    writer.varint(shape.length)
    for (const dimension of shape) {
      if (!Number.isSafeInteger(dimension) || dimension < 0) throw invalid('shapes', `shape [${shape.join(', ')}]`)
      writer.varint(dimension)
    }
  }

  const kinds = collectKinds(tensors)
  writer.varint(kinds.pairs.length)
  for (const { dtype, shape } of kinds.pairs) {
    writer.u8(dtype)
    writer.varint(shape)
  }
  writer.varint(tensors.count)
  writeNames(writer, tensors.names)
  const width = columnWidth(Math.max(0, kinds.pairs.length - 1))
  writer.u8(width)
  writer.column(kinds.ids, width)
  checkPlaces(metas)
  writeSegmentRuns(writer, tensors.segments)
  writeOffsets(writer, tensors, metas.segments.length)
  if (tensors.digests) {
    writer.bytes(new Uint8Array(tensors.digests.buffer, tensors.digests.byteOffset, tensors.digests.byteLength))
  }
  const payload = writer.finish()
  return { payload, digest: metasDigest(payload) }
}

function collectKinds(tensors: TensorTable): { pairs: { dtype: number; shape: number }[]; ids: Uint32Array } {
  const { count, dtypes, shapeIds, shapes, bytes } = tensors
  const known = new Map<number, number>()
  const pairs: { dtype: number; shape: number }[] = []
  const sizes: number[] = []
  const ids = new Uint32Array(count)
  for (let i = 0; i < count; i++) {
    const key = shapeIds[i]! * 256 + dtypes[i]!
    let id = known.get(key)
    if (id === undefined) {
      const dtype = DTYPES[dtypes[i]!]
      const shape = shapes[shapeIds[i]!]
      if (dtype === undefined || shape === undefined) {
        throw invalid(dtype === undefined ? 'dtypes' : 'shapeIds', 'points outside its table', tensors.names.at(i))
      }
      id = pairs.push({ dtype: dtypes[i]!, shape: shapeIds[i]! }) - 1
      sizes.push(tensorBytes(dtype, shape))
      known.set(key, id)
    }
    if (bytes[i] !== sizes[id])
      throw invalid('bytes', `${bytes[i]}, but dtype and shape give ${sizes[id]}`, tensors.names.at(i))
    ids[i] = id
  }
  return { pairs, ids }
}

function checkColumns(tensors: TensorTable): void {
  const { count, names, dtypes, shapeIds, segments, offsets, bytes, digests } = tensors
  const lengths = { names, dtypes, shapeIds, segments, offsets, bytes, ...(digests && { digests }) }
  for (const [field, column] of Object.entries(lengths)) {
    if (column.length !== count) throw invalid(field, `${column.length} entries for ${count} tensors`)
  }
}

function checkPlaces({ tensors, segments }: Omit<RankMetas, 'digest'>): void {
  const ends = Float64Array.from(segments, (segment) => segment.bytes)
  for (let i = 0; i < tensors.count; i++) {
    const end = ends[tensors.segments[i]!]
    if (end === undefined) throw invalid('segments', `segment ${tensors.segments[i]} of ${ends.length}`, tensors.names.at(i))
    const offset = tensors.offsets[i]!
    if (!(Number.isSafeInteger(offset) && offset >= 0 && offset + tensors.bytes[i]! <= end)) {
      throw invalid(
        'offsets',
        `offset ${offset} + ${tensors.bytes[i]} bytes is outside a segment of ${end}`,
        tensors.names.at(i),
      )
    }
  }
}

function writeSegmentRuns(writer: ByteWriter, segments: Uint32Array): void {
  for (let start = 0; start < segments.length;) {
    let end = start + 1
    while (end < segments.length && segments[end] === segments[start]) end++
    writer.varint(segments[start]!)
    writer.varint(end - start)
    start = end
  }
}

function writeOffsets(writer: ByteWriter, tensors: TensorTable, segments: number): void {
  const sample = Math.min(tensors.count, ALIGNMENT_SAMPLE)
  let best = 0
  let fewest = Infinity
  for (const candidate of ALIGNMENTS_LOG2) {
    const found = offsetExceptions(tensors, sample, segments, candidate).length
    if (found < fewest) {
      fewest = found
      best = candidate
    }
  }
  const exceptions = offsetExceptions(tensors, tensors.count, segments, best)
  writer.u8(best)
  writer.varint(exceptions.length)
  let next = 0
  for (const index of exceptions) {
    writer.varint(index - next)
    writer.varint(tensors.offsets[index]!)
    next = index + 1
  }
}

/**
 * Returns indices among the first `count` tensors that are not at the rounded-up end of the previous tensor of their segment.
 */
function offsetExceptions(tensors: TensorTable, count: number, segments: number, alignmentLog2: number): number[] {
  const alignment = 2 ** alignmentLog2
  const ends = new Float64Array(segments)
  const exceptions: number[] = []
  for (let i = 0; i < count; i++) {
    const segment = tensors.segments[i]!
    const offset = tensors.offsets[i]!
    if (offset !== alignUp(ends[segment]!, alignment)) exceptions.push(i)
    ends[segment] = offset + tensors.bytes[i]!
  }
  return exceptions
}

function writeText(writer: ByteWriter, field: string, value: string): void {
  if (Buffer.byteLength(value) > MAX_TEXT || /\p{Surrogate}/u.test(value)) throw invalid(field, 'overlong or ill-formed text')
  writer.text(value)
}

function invalid(field: string, why: string, tensor?: string): CkptError {
  const where = tensor === undefined ? field : `tensor ${tensor}: ${field}`
  return new CkptError('INVALID_ARGUMENT', `metas: ${where}: ${why}`, {
    fields: { field, ...(tensor !== undefined && { tensor }) },
  })
}
