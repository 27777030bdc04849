import { isAscii, isUtf8 } from 'node:buffer'

import { CkptError, type NameList } from '@ckpt/contract'

import { columnWidth, malformed, type ByteReader, type ByteWriter } from './bytes.ts'
import { MAX_NAME, MAX_NAMES, NAME_BLOCK } from './format.ts'

const BLOCK_MASK = NAME_BLOCK - 1

/**
 * Writes names front-coded, as described in ./format.ts. @throws CkptError `INVALID_ARGUMENT` for overlong or ill-formed names.
 */
export function writeNames(writer: ByteWriter, names: NameList): void {
  const count = names.length
  const prefixes = new Uint16Array(count)
  const ids = new Uint32Array(count)
  const dictionary = new Map<string, number>()
  let longest = 0
  let all = 0
  let previous = ''
  for (let i = 0; i < count; i++) {
    const name = names.at(i)
    if (name.length > MAX_NAME) throw badName(name, `has ${name.length} characters; at most ${MAX_NAME} are allowed`)
    all += name.length
    if (all > MAX_NAMES) throw badName(name, `and those before it have ${all} characters; at most ${MAX_NAMES} are allowed`)
    const shared = (i & BLOCK_MASK) === 0 ? 0 : sharedPrefix(previous, name)
    const suffix = name.slice(shared)
    let id = dictionary.get(suffix)
    if (id === undefined) {
      if (/\p{Surrogate}/u.test(suffix)) throw badName(name, 'is not well-formed Unicode')
      id = dictionary.size
      dictionary.set(suffix, id)
    }
    prefixes[i] = shared
    ids[i] = id
    if (shared > longest) longest = shared
    previous = name
  }
  const prefixWidth = columnWidth(longest)
  writer.u8(prefixWidth)
  writer.column(prefixes, prefixWidth)
  writer.varint(dictionary.size)
  const idWidth = columnWidth(Math.max(0, dictionary.size - 1))
  writer.u8(idWidth)
  writer.column(ids, idWidth)
  const entries = [...dictionary.keys()]
  const blob = Buffer.from(entries.join(''), 'utf8')
  const plain = blob.byteLength === entries.reduce((sum, entry) => sum + entry.length, 0)
  for (const entry of entries) writer.varint(plain ? entry.length : Buffer.byteLength(entry, 'utf8'))
  writer.bytes(blob)
}

/**
 * Reads names. All checks are made here; strings are created only when a name is requested. @throws CkptError
 * `METAS_MALFORMED`.
 */
export function readNames(reader: ByteReader, count: number): NameList {
  const prefixes = reader.column(count, reader.width('names.prefix'), 'names.prefix')
  const size = reader.count('names.dictionary', 1)
  const ids = reader.column(count, reader.width('names.id'), 'names.id')
  const starts = new Uint32Array(size + 1)
  let total = 0
  for (let i = 0; i < size; i++) {
    total += reader.varint('names.length')
    if (total > reader.remaining) throw malformed('names.length', 'the dictionary ends past the payload')
    starts[i + 1] = total
  }
  const blob = reader.bytes(total, 'names.text')
  const ascii = isAscii(blob)
  const dictionary = new Dictionary(blob, starts, ascii)
  if (!ascii) dictionary.check()

  let previous = 0
  let all = 0
  for (let i = 0; i < count; i++) {
    const prefix = prefixes[i]!
    const id = ids[i]!
    if (prefix > ((i & BLOCK_MASK) === 0 ? 0 : previous))
      throw malformed('names.prefix', `tensor ${i} shares more characters than the name before it has`)
    if (id >= size) throw malformed('names.id', `tensor ${i} has entry ${id} of ${size}`)
    previous = prefix + (ascii ? starts[id + 1]! - starts[id]! : dictionary.at(id).length)
    if (previous > MAX_NAME) throw malformed('names.length', `the name of tensor ${i} is over ${MAX_NAME} characters`)
    all += previous
    if (all > MAX_NAMES)
      throw malformed('names.length', `the names up to tensor ${i} have ${all} characters, over ${MAX_NAMES}`)
  }
  const list = new FrontCodedNames(prefixes, ids, dictionary)
  // A prefix may split a surrogate pair: only whole names reveal it, and only in text that is not plain ASCII.
  if (!ascii) {
    for (let i = 0; i < count; i++) {
      if (/\p{Surrogate}/u.test(list.at(i))) throw malformed('names.text', `the name of tensor ${i} is not well-formed Unicode`)
    }
  }
  return list
}

class Dictionary {
  readonly #blob: Buffer
  readonly #starts: Uint32Array
  readonly #encoding: BufferEncoding
  readonly #entries: (string | undefined)[] = []

  constructor(blob: Buffer, starts: Uint32Array, ascii: boolean) {
    this.#blob = blob
    this.#starts = starts
    this.#encoding = ascii ? 'latin1' : 'utf8'
  }

  check(): void {
    if (!isUtf8(this.#blob)) throw malformed('names.text', 'not UTF-8')
    for (const start of this.#starts) {
      if (((this.#blob[start] ?? 0) & 0xc0) === 0x80) throw malformed('names.length', 'an entry starts inside a character')
    }
  }

  at(id: number): string {
    return (this.#entries[id] ??= this.#blob.toString(this.#encoding, this.#starts[id], this.#starts[id + 1]))
  }
}

class FrontCodedNames implements NameList {
  readonly length: number
  readonly #prefixes: ArrayLike<number>
  readonly #ids: ArrayLike<number>
  readonly #dictionary: Dictionary
  readonly #blocks: (readonly string[] | undefined)[] = []

  constructor(prefixes: ArrayLike<number>, ids: ArrayLike<number>, dictionary: Dictionary) {
    this.length = ids.length
    this.#prefixes = prefixes
    this.#ids = ids
    this.#dictionary = dictionary
  }

  at(index: number): string {
    if (!(Number.isInteger(index) && index >= 0 && index < this.length)) {
      throw new RangeError(`no tensor ${index} among ${this.length}`)
    }
    const block = Math.floor(index / NAME_BLOCK)
    return (this.#blocks[block] ??= this.#decode(block * NAME_BLOCK))[index & BLOCK_MASK]!
  }

  #decode(first: number): string[] {
    const names: string[] = []
    let name = ''
    for (let i = first; i < Math.min(first + NAME_BLOCK, this.length); i++) {
      name = name.slice(0, this.#prefixes[i]) + this.#dictionary.at(this.#ids[i]!)
      names.push(name)
    }
    return names
  }
}

function sharedPrefix(previous: string, name: string): number {
  const limit = Math.min(previous.length, name.length)
  let shared = 0
  while (shared < limit && previous.charCodeAt(shared) === name.charCodeAt(shared)) shared++
  // Never between the halves of a surrogate pair: the rest must be valid text.
  if (shared > 0 && (name.charCodeAt(shared - 1) & 0xfc00) === 0xd800) shared--
  return shared
}

function badName(name: string, why: string): CkptError {
  const shown = name.length > 80 ? `${name.slice(0, 80)}…` : name
  return new CkptError('INVALID_ARGUMENT', `tensor name ${JSON.stringify(shown)} ${why}`, {
    fields: { tensor: shown, field: 'name' },
  })
}
