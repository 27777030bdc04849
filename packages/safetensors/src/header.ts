import { isUtf8 } from 'node:buffer'
import { DTYPE_BITS, isDType, type DType } from '@ckpt/contract'
import { JsonCursor } from './json-cursor.ts'
import { malformed, quote } from './malformed.ts'
import { sortSteps } from './slices.ts'

/** Largest header in bytes that the format allows. */
export const MAX_HEADER_BYTES = 100_000_000

/** Size in bytes of the length before the header. */
export const LENGTH_BYTES = 8

/** One tensor of a file. */
export interface HeaderTensor {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  /** First byte, counted from the end of the header. */
  readonly begin: number
  /** One past the last byte, counted from the end of the header. */
  readonly end: number
}

/** A header that was completely checked against the format and the file's size. */
export interface SafetensorsHeader {
  readonly file: string
  readonly fileBytes: number
  /** Start of the data in the file, in bytes. */
  readonly dataStart: number
  /** Contents of `__metadata__`. */
  readonly metadata: Readonly<Record<string, string>>
  /** Ascending by offset. The tensors cover the data without gap or overlap. */
  readonly tensors: readonly HeaderTensor[]
}

/** The file a header belongs to. */
export interface HeaderSource {
  /** Path or other name of the file, for errors. */
  readonly file: string
  /** Size of the whole file in bytes. */
  readonly fileBytes: number
}

/**
 * Returns the header's size in bytes, from the first bytes of a file.
 *
 * @throws CkptError `CHECKPOINT_MALFORMED` if it exceeds the file or the format's limit.
 */
export function headerLength(bytes: Uint8Array, source: HeaderSource): number {
  const place = { file: source.file, field: 'length' }
  if (source.fileBytes === 0) throw malformed(place, 'the file is empty')
  if (bytes.byteLength < LENGTH_BYTES) {
    throw malformed(place, `truncated: ${source.fileBytes} bytes are too few for the header's length`)
  }
  const length = Buffer.from(bytes.buffer, bytes.byteOffset, LENGTH_BYTES).readBigUInt64LE()
  if (length > MAX_HEADER_BYTES) {
    throw malformed(place, `header of ${length} bytes is over the format's limit of ${MAX_HEADER_BYTES}`)
  }
  if (LENGTH_BYTES + Number(length) > source.fileBytes) {
    throw malformed(place, `header of ${length} bytes reaches past the end of the file of ${source.fileBytes} bytes`)
  }
  if (length < 2) throw malformed(place, `header of ${length} bytes is too short for a JSON object`)
  return Number(length)
}

/**
 * Reads and checks a safetensors header (https://github.com/huggingface/safetensors, "Format").
 *
 * @param bytes - the start of the file: at least the 8-byte length and the whole header.
 * @throws CkptError `CHECKPOINT_MALFORMED` whose fields name the file, the tensor and the wrong field.
 */
export function parseHeader(bytes: Uint8Array, source: HeaderSource): SafetensorsHeader {
  const steps = headerSteps(bytes, source)
  for (;;) {
    const { done, value } = steps.next()
    if (done === true) return value
  }
}

/** {@link parseHeader} in steps, so that a large header does not block the process. */
export function* headerSteps(bytes: Uint8Array, source: HeaderSource): Generator<void, SafetensorsHeader> {
  const { file, fileBytes } = source
  const length = headerLength(bytes, source)
  const dataStart = LENGTH_BYTES + length
  if (bytes.byteLength < dataStart) {
    throw malformed({ file, field: 'header' }, `truncated: ${bytes.byteLength} bytes do not hold the header of ${length} bytes`)
  }
  const text = Buffer.from(bytes.buffer, bytes.byteOffset + LENGTH_BYTES, length)
  if (!isUtf8(text)) throw malformed({ file, field: 'header' }, 'the header is not valid UTF-8')

  const cursor = new JsonCursor(text, file, 'header')
  // White space before it violates the format's text, but its reference implementation accepts it.
  if (cursor.peek() !== 0x7b) throw malformed({ file, field: 'header' }, 'the header does not start with "{"')
  const tensors: HeaderTensor[] = []
  const names = new Set<string>()
  let metadata: Record<string, string> | undefined
  for (const key of cursor.members()) {
    yield
    if (key === '__metadata__') {
      if (metadata !== undefined) throw cursor.fail('"__metadata__" appears twice')
      metadata = readMetadata(cursor)
      continue
    }
    cursor.tensor = key
    if (names.has(key)) {
      cursor.field = 'name'
      throw cursor.fail('the name appears twice')
    }
    names.add(key)
    tensors.push(readTensor(cursor, key))
    cursor.tensor = undefined
    cursor.field = 'header'
  }
  cursor.end()
  yield* sortSteps(tensors, (a, b) => a.begin - b.begin || a.end - b.end)
  checkCover(tensors, file, fileBytes - dataStart)
  return { file, fileBytes, dataStart, metadata: metadata ?? {}, tensors }
}

function readMetadata(cursor: JsonCursor): Record<string, string> {
  const entries = new Map<string, string>()
  cursor.field = '__metadata__'
  // The reference implementation treats it like a missing key.
  if (cursor.literal() === 'null') return {}
  cursor.object((key) => {
    if (entries.has(key)) throw cursor.fail(`key ${quote(key)} of __metadata__ appears twice`)
    entries.set(key, cursor.string(`a string as the value of ${quote(key)}`))
  })
  cursor.field = 'header'
  return Object.fromEntries(entries)
}

function readTensor(cursor: JsonCursor, name: string): HeaderTensor {
  let dtype: string | undefined
  let shape: number[] | undefined
  let offsets: number[] | undefined
  cursor.field = 'header'
  cursor.object((key) => {
    cursor.field = key
    if (key === 'dtype') {
      if (dtype !== undefined) throw cursor.fail('dtype appears twice')
      dtype = cursor.string()
    } else if (key === 'shape') {
      if (shape !== undefined) throw cursor.fail('shape appears twice')
      shape = integers(cursor)
    } else if (key === 'data_offsets') {
      if (offsets !== undefined) throw cursor.fail('data_offsets appears twice')
      offsets = integers(cursor)
    } else cursor.skip()
    cursor.field = 'header'
  })
  cursor.field = 'dtype'
  if (dtype === undefined) throw cursor.fail('dtype is missing')
  if (!isDType(dtype)) throw cursor.fail(`unknown dtype ${quote(dtype)}`)
  cursor.field = 'shape'
  if (shape === undefined) throw cursor.fail('shape is missing')
  const bytes = sizeOf(cursor, dtype, shape)
  cursor.field = 'data_offsets'
  if (offsets === undefined) throw cursor.fail('data_offsets is missing')
  if (offsets.length !== 2) throw cursor.fail(`data_offsets holds ${offsets.length} numbers instead of 2`)
  const begin = offsets[0]!
  const end = offsets[1]!
  if (end < begin) throw cursor.fail(`data_offsets end at ${end}, before they begin at ${begin}`)
  if (end - begin !== bytes) {
    throw cursor.fail(`data_offsets hold ${end - begin} bytes, but ${dtype} of shape ${shapeText(shape)} needs ${bytes}`)
  }
  return { name, dtype, shape, begin, end }
}

function integers(cursor: JsonCursor): number[] {
  const values: number[] = []
  cursor.array(() => values.push(cursor.integer()))
  return values
}

function sizeOf(cursor: JsonCursor, dtype: DType, shape: readonly number[]): number {
  let elements = 1
  for (let i = 0; i < shape.length; i++) {
    elements *= shape[i]!
    if (!Number.isSafeInteger(elements)) throw cursor.fail(`shape ${shapeText(shape)} holds more than 2^53 - 1 elements`)
  }
  const bits = elements * DTYPE_BITS[dtype]
  if (bits / 8 > Number.MAX_SAFE_INTEGER) throw cursor.fail(`${dtype} of shape ${shapeText(shape)} is over 2^53 - 1 bytes`)
  if (bits % 8 !== 0) throw cursor.fail(`${dtype} of shape ${shapeText(shape)} is not a whole number of bytes`)
  return bits / 8
}

function shapeText(shape: readonly number[]): string {
  return shape.length > 16 ? `[${shape.slice(0, 16).join(', ')}, … ${shape.length} dimensions]` : `[${shape.join(', ')}]`
}

function checkCover(tensors: readonly HeaderTensor[], file: string, dataBytes: number): void {
  let covered = 0
  let before: HeaderTensor | undefined
  for (const tensor of tensors) {
    const place = { file, tensor: tensor.name, field: 'data_offsets' }
    if (tensor.begin < covered) {
      throw malformed(place, `begins at ${tensor.begin} and overlaps tensor ${quote(before!.name)}, which ends at ${covered}`)
    }
    if (tensor.begin > covered) throw malformed(place, `gap: bytes ${covered} to ${tensor.begin} before it belong to no tensor`)
    if (tensor.end > dataBytes) {
      throw malformed(place, `ends at ${tensor.end}, past the end of the file, which holds ${dataBytes} bytes of data`)
    }
    covered = tensor.end
    before = tensor
  }
  if (covered < dataBytes) {
    throw malformed({ file, field: 'data_offsets' }, `${dataBytes - covered} trailing bytes of the file belong to no tensor`)
  }
}
