import { randomBytes } from 'node:crypto'
import { open, rename, rm, type FileHandle } from 'node:fs/promises'
import { CkptError, DTYPES, tensorBytes, type DType } from '@ckpt/contract'
import { LENGTH_BYTES, MAX_HEADER_BYTES, type HeaderTensor } from './header.ts'
import { unreadable } from './malformed.ts'

/** Description of a tensor in a header, without the position of its data. */
export interface TensorSpec {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
}

/** A tensor's bytes: at once, or piece by piece so that they need not be in memory together. */
export type TensorBytes = Uint8Array | (() => Iterable<Uint8Array> | AsyncIterable<Uint8Array>)

/** A tensor to write. */
export interface WritableTensor extends TensorSpec {
  readonly data: TensorBytes
}

export interface HeaderOptions {
  readonly metadata?: Readonly<Record<string, string>>
}

/** A header ready to be written. */
export interface HeaderLayout<T extends TensorSpec> {
  /** Length, JSON and padding: the first bytes of the file. */
  readonly header: Buffer
  /** Tensors in the order of their data. */
  readonly tensors: readonly (HeaderTensor & { readonly source: T })[]
  readonly dataBytes: number
  readonly fileBytes: number
}

const RANK = new Map(DTYPES.map((dtype, index) => [dtype, index]))

/**
 * Lays out a file like the reference implementation, byte for byte: tensors by dtype (its enumeration backwards, so widest
 * alignment first), then by the bytes of their names; the header is padded with spaces to 8 bytes.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the tensor or field.
 */
export function headerFor<T extends TensorSpec>(tensors: Iterable<T>, options: HeaderOptions = {}): HeaderLayout<T> {
  const sorted = [...tensors].sort((a, b) => RANK.get(b.dtype)! - RANK.get(a.dtype)! || compareUtf8(a.name, b.name))
  const parts: string[] = []
  if (options.metadata !== undefined) {
    for (const [key, value] of Object.entries(options.metadata)) {
      if (typeof value !== 'string') throw invalid(`metadata ${JSON.stringify(key)} is not a string`, '__metadata__')
      checkText(key, '__metadata__')
      checkText(value, '__metadata__')
    }
    parts.push(`"__metadata__":${JSON.stringify(options.metadata)}`)
  }
  const names = new Set<string>()
  const placed: (HeaderTensor & { readonly source: T })[] = []
  let offset = 0
  for (const source of sorted) {
    const { name, dtype, shape } = source
    if (!RANK.has(dtype)) throw invalid(`unknown dtype ${JSON.stringify(dtype)}`, 'dtype', name)
    if (name === '__metadata__') throw invalid('the format reserves this name for metadata', 'name', name)
    if (names.has(name)) throw invalid('the name appears twice', 'name', name)
    checkText(name, 'name')
    if (shape.some((dimension) => !Number.isSafeInteger(dimension) || dimension < 0)) {
      throw invalid(`shape [${shape.join(', ')}] is not a list of whole numbers`, 'shape', name)
    }
    names.add(name)
    const end = offset + tensorBytes(dtype, shape)
    parts.push(`${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join(',')}],"data_offsets":[${offset},${end}]}`)
    placed.push({ name, dtype, shape, begin: offset, end, source })
    offset = end
  }
  const json = Buffer.from(`{${parts.join(',')}}`)
  const length = Math.ceil(json.length / 8) * 8
  if (length > MAX_HEADER_BYTES) throw invalid(`header of ${length} bytes is over the format's limit`, 'header')
  const header = Buffer.alloc(LENGTH_BYTES + length, 0x20)
  header.writeBigUInt64LE(BigInt(length))
  json.copy(header, LENGTH_BYTES)
  return { header, tensors: placed, dataBytes: offset, fileBytes: header.length + offset }
}

/**
 * Writes a safetensors file. It appears under `path` only when it is complete: the bytes first go to a temporary file next to
 * it, which is removed on failure.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the tensor if the data does not have the size of its dtype and shape;
 * `CHECKPOINT_UNREADABLE` with errno if the file system refuses.
 */
export async function writeFile(path: string, tensors: Iterable<WritableTensor>, options: HeaderOptions = {}): Promise<void> {
  const layout = headerFor(tensors, options)
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`
  let handle: FileHandle | undefined
  try {
    handle = await open(temporary, 'wx')
    await writeAll(handle, layout.header)
    for (const { source, begin, end } of layout.tensors) await writeTensor(handle, source, end - begin)
    await handle.close()
    handle = undefined
    await rename(temporary, path)
  } catch (error) {
    await handle?.close().catch(() => undefined)
    await rm(temporary, { force: true }).catch(() => undefined)
    throw isSystemError(error) ? unreadable(path, error, 'cannot be written') : error
  }
}

async function writeTensor(handle: FileHandle, tensor: WritableTensor, bytes: number): Promise<void> {
  const pieces = typeof tensor.data === 'function' ? tensor.data() : [tensor.data]
  let written = 0
  for await (const piece of pieces) {
    written += piece.byteLength
    if (written > bytes) break
    await writeAll(handle, piece)
  }
  if (written === bytes) return
  const amount = written > bytes ? 'more than' : `${written} instead of`
  throw invalid(
    `the data holds ${amount} the ${bytes} bytes of ${tensor.dtype} [${tensor.shape.join(', ')}]`,
    'data',
    tensor.name,
  )
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.byteLength;) {
    // One write call takes at most 2^31 - 4096 bytes.
    const { bytesWritten } = await handle.write(bytes, at, Math.min(bytes.byteLength - at, 1 << 30))
    at += bytesWritten
  }
}

function checkText(text: string, field: string): void {
  if (/\p{Surrogate}/u.test(text)) throw invalid(`${JSON.stringify(text)} holds a lone surrogate`, field)
}

/** Compares by the UTF-8 bytes, which is the order of code points; JavaScript compares UTF-16 units. */
function compareUtf8(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) {
    const left = a.charCodeAt(i)
    const right = b.charCodeAt(i)
    if (left === right) continue
    const leftSurrogate = left >= 0xd800 && left <= 0xdfff
    const rightSurrogate = right >= 0xd800 && right <= 0xdfff
    return leftSurrogate === rightSurrogate ? left - right : leftSurrogate ? 1 : -1
  }
  return a.length - b.length
}

function isSystemError(error: unknown): boolean {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).syscall === 'string'
}

function invalid(message: string, field: string, tensor?: string): CkptError {
  const subject = tensor === undefined ? '' : `tensor ${JSON.stringify(tensor)}: `
  return new CkptError('INVALID_ARGUMENT', `${subject}${message}`, {
    fields: { field, ...(tensor !== undefined && { tensor }) },
  })
}
