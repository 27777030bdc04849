import { CkptError } from './errors.ts'
import { DTYPES, type DType } from './dtype.ts'

/** Maximum characters (UTF-16 units) of a tensor's name in messages between ranks. */
export const MAX_NAME_LENGTH = 4096
/** Maximum dimensions of a tensor in messages between ranks and workers. */
export const MAX_DIMENSIONS = 64

/** One tensor: its name, element type, shape, size and position in its segment. */
export interface TensorMeta {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  /** Size in bytes. */
  readonly bytes: number
  /** Index of its segment among the rank's segments of this checkpoint. */
  readonly segment: number
  /** Offset in bytes from the start of its segment. */
  readonly offset: number
}

/** Names by index; implementations may decode them on first use. */
export interface NameList {
  readonly length: number
  /** Returns the name at `index`. @throws RangeError outside 0 … length - 1. */
  at(index: number): string
}

/**
 * Tensors as columns, so that a checkpoint of 100,000 tensors needs a few typed arrays instead of as many objects. All columns
 * have `count` entries; row i of each describes tensor i.
 */
export interface TensorTable {
  readonly count: number
  readonly names: NameList
  /** Index into {@link DTYPES}. */
  readonly dtypes: Uint8Array
  /** Index into `shapes`. */
  readonly shapeIds: Uint32Array
  readonly shapes: readonly (readonly number[])[]
  /** Index of the segment on the owning rank. */
  readonly segments: Uint32Array
  /** Byte offset in the segment. */
  readonly offsets: Float64Array
  /** Size in bytes. */
  readonly bytes: Float64Array
  /**
   * {@link nameHash} of every name, if the rank that made the table computed them: other ranks then need not decode all names.
   */
  readonly nameHashes?: Uint32Array
  /** 64-bit digest of the tensor's bytes (see docs/worker-protocol.md), if digests were computed. */
  readonly digests?: BigUint64Array
}

/** Returns row `index` of a table as an object. */
export function tensorAt(table: TensorTable, index: number): TensorMeta {
  const name = table.names.at(index)
  return {
    name,
    dtype: DTYPES[table.dtypes[index]!]!,
    shape: table.shapes[table.shapeIds[index]!]!,
    bytes: table.bytes[index]!,
    segment: table.segments[index]!,
    offset: table.offsets[index]!,
  }
}

/**
 * Returns a table of `tensors` in the given order. @throws CkptError `INVALID_ARGUMENT` if `digests` has a different length.
 */
export function tensorTable(tensors: readonly TensorMeta[], digests?: BigUint64Array): TensorTable {
  const count = tensors.length
  if (digests !== undefined && digests.length !== count) {
    throw new CkptError('INVALID_ARGUMENT', `${digests.length} digests for ${count} tensors`, { fields: { field: 'digests' } })
  }
  const dtypeIndex = new Map(DTYPES.map((dtype, index) => [dtype, index]))
  const shapeIndex = new Map<string, number>()
  const shapes: (readonly number[])[] = []
  const dtypes = new Uint8Array(count)
  const shapeIds = new Uint32Array(count)
  const segments = new Uint32Array(count)
  const offsets = new Float64Array(count)
  const bytes = new Float64Array(count)
  const names: string[] = new Array<string>(count)
  for (let i = 0; i < count; i++) {
    const tensor = tensors[i]!
    const key = tensor.shape.join(',')
    let shapeId = shapeIndex.get(key)
    if (shapeId === undefined) {
      shapeId = shapes.push(tensor.shape) - 1
      shapeIndex.set(key, shapeId)
    }
    names[i] = tensor.name
    dtypes[i] = dtypeIndex.get(tensor.dtype)!
    shapeIds[i] = shapeId
    segments[i] = tensor.segment
    offsets[i] = tensor.offset
    bytes[i] = tensor.bytes
  }
  return { count, names: nameList(names), dtypes, shapeIds, shapes, segments, offsets, bytes, ...(digests && { digests }) }
}

/**
 * 32-bit hash of a tensor name: FNV-1a over its UTF-16 code units, then the finaliser of MurmurHash3. It is the same on every
 * rank, so names can be compared by number. Equal hashes do not mean equal names.
 */
export function nameHash(name: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

/** {@link nameHash} of each name, for {@link TensorTable.nameHashes}. */
export function nameHashes(names: NameList): Uint32Array {
  const hashes = new Uint32Array(names.length)
  for (let i = 0; i < hashes.length; i++) hashes[i] = nameHash(names.at(i))
  return hashes
}

/** A {@link NameList} over an array of strings. */
export function nameList(names: readonly string[]): NameList {
  return {
    length: names.length,
    at(index) {
      const name = names[index]
      if (name === undefined) throw new RangeError(`no tensor ${index} among ${names.length}`)
      return name
    },
  }
}
