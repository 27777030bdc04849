import { isUtf8 } from 'node:buffer'

import { CkptError, DTYPES, tensorBytes, type RankMetas, type SegmentMeta } from '@ckpt/contract'
import { alignUp } from '@ckpt/utils'

import { ByteReader, malformed } from './bytes.ts'
import {
  FLAG_DIGESTS,
  MAGIC,
  MAX_ALIGNMENT_LOG2,
  MAX_DIMENSIONS,
  MAX_TEXT,
  metasDigest,
  SEGMENT_KINDS,
  VERSION,
} from './format.ts'
import { readNames } from './names.ts'

/**
 * Reads the output of `encodeRankMetas` as columns: no object is created per tensor, and names are decoded on demand. The
 * result keeps views of `payload`, which must not be changed afterwards.
 *
 * @throws CkptError `METAS_MALFORMED` naming the field, for any payload that is not exactly one encoding of valid metas or
 * whose digest is not `digest`.
 */
export function decodeRankMetas(payload: Uint8Array, digest: string): RankMetas {
  if (metasDigest(payload) !== digest) throw malformed('digest', 'the payload has a different one')
  const reader = new ByteReader(payload)
  if (reader.u32('magic') !== MAGIC) throw malformed('magic', 'these are not metas')
  const version = reader.u16('version')
  if (version !== VERSION) throw malformed('version', `${version}, but this release reads ${VERSION}`)
  const flags = reader.u16('flags')
  if ((flags & ~FLAG_DIGESTS) !== 0) throw malformed('flags', `unknown flags ${flags}`)
  const rank = reader.varint('rank')
  const host = readText(reader, 'host')
  const deviceUuid = readText(reader, 'deviceUuid')
  const segmentMetas = readSegmentMetas(reader)
  const shapes = readShapes(reader)
  const kinds = readKinds(reader, shapes)

  // A tensor needs at least a byte in each of three columns.
  const count = reader.count('tensors', 3)
  const names = readNames(reader, count)
  const kindIds = reader.column(count, reader.width('kinds.id'), 'kinds.id')
  const dtypes = new Uint8Array(count)
  const shapeIds = new Uint32Array(count)
  const bytes = new Float64Array(count)
  for (let i = 0; i < count; i++) {
    const kind = kindIds[i]!
    if (kind >= kinds.count) throw malformed('kinds.id', `tensor ${i} has kind ${kind} of ${kinds.count}`)
    dtypes[i] = kinds.dtypes[kind]!
    shapeIds[i] = kinds.shapes[kind]!
    bytes[i] = kinds.bytes[kind]!
  }
  const segments = readSegmentRuns(reader, count, segmentMetas.length)
  const offsets = readOffsets(reader, segments, bytes, segmentMetas)
  const digests = (flags & FLAG_DIGESTS) !== 0 ? readDigests(reader, count) : undefined
  if (reader.remaining !== 0) throw malformed('end', `${reader.remaining} bytes too many`)
  const tensors = { count, names, dtypes, shapeIds, shapes, segments, offsets, bytes, ...(digests && { digests }) }
  return { rank, host, deviceUuid, segments: segmentMetas, tensors, digest }
}

function readText(reader: ByteReader, field: string): string {
  const length = reader.varint(field)
  if (length > MAX_TEXT) throw malformed(field, `${length} bytes; at most ${MAX_TEXT} are allowed`)
  const bytes = reader.bytes(length, field)
  if (!isUtf8(bytes)) throw malformed(field, 'not UTF-8')
  return bytes.toString('utf8')
}

function readSegmentMetas(reader: ByteReader): SegmentMeta[] {
  const count = reader.count('segments', 2)
  const segments: SegmentMeta[] = []
  for (let i = 0; i < count; i++) {
    const kind = SEGMENT_KINDS[reader.u8('segments.kind')]
    if (kind === undefined) throw malformed('segments.kind', `unknown kind of segment ${i}`)
    segments.push({ kind, bytes: reader.varint('segments.bytes') })
  }
  return segments
}

function readShapes(reader: ByteReader): number[][] {
  const count = reader.count('shapes', 1)
  const shapes: number[][] = []
  for (let i = 0; i < count; i++) {
    const dimensions = reader.varint('shapes.dimensions')
    if (dimensions > MAX_DIMENSIONS) throw malformed('shapes.dimensions', `shape ${i} has ${dimensions}`)
    const shape: number[] = []
    for (let d = 0; d < dimensions; d++) shape.push(reader.varint('shapes.dimension'))
    shapes.push(shape)
  }
  return shapes
}

interface Kinds {
  readonly count: number
  readonly dtypes: Uint8Array
  readonly shapes: Uint32Array
  readonly bytes: Float64Array
}

function readKinds(reader: ByteReader, shapes: readonly number[][]): Kinds {
  const count = reader.count('kinds', 2)
  const kinds = { count, dtypes: new Uint8Array(count), shapes: new Uint32Array(count), bytes: new Float64Array(count) }
  for (let i = 0; i < count; i++) {
    const index = reader.u8('kinds.dtype')
    const dtype = DTYPES[index]
    if (dtype === undefined) throw malformed('kinds.dtype', `unknown dtype ${index}`)
    const shapeId = reader.varint('kinds.shape')
    const shape = shapes[shapeId]
    if (shape === undefined) throw malformed('kinds.shape', `shape ${shapeId} of ${shapes.length}`)
    kinds.dtypes[i] = index
    kinds.shapes[i] = shapeId
    try {
      kinds.bytes[i] = tensorBytes(dtype, shape)
    } catch (error) {
      throw new CkptError('METAS_MALFORMED', `metas: shapes: shape ${shapeId} has no valid size`, {
        cause: error,
        fields: { field: 'shapes' },
      })
    }
  }
  return kinds
}

function readSegmentRuns(reader: ByteReader, count: number, segmentCount: number): Uint32Array {
  const segments = new Uint32Array(count)
  for (let start = 0; start < count;) {
    const segment = reader.varint('tensors.segment')
    const length = reader.varint('tensors.segment')
    if (segment >= segmentCount)
      throw malformed('tensors.segment', `tensor ${start} is in segment ${segment} of ${segmentCount}`)
    if (length === 0 || length > count - start) throw malformed('tensors.segment', `a run of ${length} at tensor ${start}`)
    segments.fill(segment, start, start + length)
    start += length
  }
  return segments
}

function readOffsets(
  reader: ByteReader,
  segments: Uint32Array,
  bytes: Float64Array,
  segmentMetas: readonly SegmentMeta[],
): Float64Array {
  const field = 'tensors.offset'
  const alignmentLog2 = reader.u8('alignment')
  if (alignmentLog2 > MAX_ALIGNMENT_LOG2) throw malformed('alignment', `2^${alignmentLog2}`)
  const alignment = 2 ** alignmentLog2
  let exceptions = reader.count(field, 2)
  const count = segments.length
  const offsets = new Float64Array(count)
  const sizes = Float64Array.from(segmentMetas, (segment) => segment.bytes)
  const ends = new Float64Array(sizes.length)
  let nextException = exceptions > 0 ? reader.varint(field) : -1
  for (let i = 0; i < count; i++) {
    const segment = segments[i]!
    let offset: number
    if (i === nextException) {
      offset = reader.varint(field)
      exceptions--
      nextException = exceptions > 0 ? i + 1 + reader.varint(field) : -1
    } else {
      offset = alignUp(ends[segment]!, alignment)
    }
    const end = offset + bytes[i]!
    if (end > sizes[segment]!) throw malformed(field, `tensor ${i} ends at ${end} in a segment of ${sizes[segment]} bytes`)
    offsets[i] = offset
    ends[segment] = end
  }
  if (exceptions !== 0) throw malformed(field, `${exceptions} offsets belong to no tensor`)
  return offsets
}

function readDigests(reader: ByteReader, count: number): BigUint64Array {
  const view = reader.bytes(count * 8, 'tensors.digest')
  return new BigUint64Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength) as ArrayBuffer)
}
