import { CkptError } from '@ckpt/contract'

/** A Python object that is looked up by its module and name, such as `torch.uint8`. */
export class PythonGlobal {
  constructor(
    readonly module: string,
    readonly name: string,
  ) {}
}

/** `callable(*args)`, evaluated by the reader of the pickle. */
export class PythonCall {
  constructor(
    readonly callable: PythonGlobal,
    readonly args: readonly PythonValue[],
  ) {}
}

export class PythonTuple {
  constructor(readonly items: readonly PythonValue[]) {}
}

/** A dict with string keys, in the given order. */
export class PythonDict {
  constructor(readonly entries: readonly (readonly [key: string, value: PythonValue])[]) {}
}

/** Values that {@link pickle} can write: an array becomes a list, a number an int, bytes are bytes. */
export type PythonValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | readonly PythonValue[]
  | PythonTuple
  | PythonDict
  | PythonGlobal
  | PythonCall

/** Opcodes of pickle protocol 4, as Python's `pickletools` documents them. */
const OP = {
  proto: 0x80,
  stop: 0x2e,
  none: 0x4e,
  true: 0x88,
  false: 0x89,
  int: 0x4a,
  long: 0x8a,
  shortText: 0x8c,
  text: 0x58,
  shortBytes: 0x43,
  bytes: 0x42,
  mark: 0x28,
  emptyList: 0x5d,
  appends: 0x65,
  emptyTuple: 0x29,
  tuple: 0x74,
  emptyDict: 0x7d,
  setItems: 0x75,
  global: 0x93,
  call: 0x52,
  memoize: 0x94,
  get: 0x68,
  longGet: 0x6a,
} as const

const PROTOCOL = 4
const MAX_DEPTH = 100

/**
 * Returns `value` as a pickle of protocol 4. Globals and dict keys are written once and referred to afterwards. There is no
 * reader: nothing is ever unpickled here.
 *
 * @throws CkptError `INVALID_ARGUMENT` for a number that is not a safe integer, text with a lone surrogate, or nesting over 100
 * deep.
 */
export function pickle(value: PythonValue): Buffer {
  const writer = new Writer()
  writer.bytes(OP.proto, PROTOCOL)
  writer.value(value, 0)
  writer.bytes(OP.stop)
  return writer.finish()
}

class Writer {
  #buffer = Buffer.allocUnsafe(1024)
  #length = 0
  readonly #memo = new Map<string, number>()

  /** A separate buffer: ZeroMQ may send it later without a copy. */
  finish(): Buffer {
    return Buffer.from(this.#buffer.subarray(0, this.#length))
  }

  bytes(...values: number[]): void {
    this.#room(values.length)
    for (const value of values) this.#buffer[this.#length++] = value
  }

  value(value: PythonValue, depth: number): void {
    if (depth > MAX_DEPTH) throw invalid(`a value is nested more than ${MAX_DEPTH} deep`)
    if (value === null) this.bytes(OP.none)
    else if (typeof value === 'boolean') this.bytes(value ? OP.true : OP.false)
    else if (typeof value === 'number') this.#number(value)
    else if (typeof value === 'bigint') this.#long(value)
    else if (typeof value === 'string') this.#text(value)
    else if (value instanceof Uint8Array) this.#sized(OP.shortBytes, OP.bytes, value)
    else if (value instanceof PythonGlobal) this.#global(value)
    else if (value instanceof PythonCall) {
      this.#global(value.callable)
      this.#tuple(value.args, depth)
      this.bytes(OP.call)
    } else if (value instanceof PythonTuple) this.#tuple(value.items, depth)
    else if (value instanceof PythonDict) this.#dict(value, depth)
    else {
      this.bytes(OP.emptyList, OP.mark)
      for (const item of value) this.value(item, depth + 1)
      this.bytes(OP.appends)
    }
  }

  #number(value: number): void {
    if (!Number.isSafeInteger(value)) throw invalid(`${value} is not a safe integer`)
    if (value !== (value | 0)) {
      this.#long(BigInt(value))
      return
    }
    this.#room(5)
    this.#buffer[this.#length++] = OP.int
    this.#length = this.#buffer.writeInt32LE(value | 0, this.#length)
  }

  /** Two's complement, little-endian, in as few bytes as hold the sign. */
  #long(value: bigint): void {
    const digits: number[] = []
    for (let rest = value; ; rest >>= 8n) {
      const digit = Number(rest & 0xffn)
      digits.push(digit)
      if (rest >= -128n && rest < 128n) break
    }
    if (digits.length > 255) throw invalid('an integer of more than 255 bytes')
    this.bytes(OP.long, digits.length, ...digits)
  }

  #text(value: string): void {
    if (/\p{Surrogate}/u.test(value)) throw invalid(`${JSON.stringify(value)} contains a lone surrogate`)
    this.#sized(OP.shortText, OP.text, Buffer.from(value))
  }

  #sized(short: number, long: number, data: Uint8Array): void {
    if (data.length < 256) this.bytes(short, data.length)
    else {
      this.#room(5)
      this.#buffer[this.#length++] = long
      this.#length = this.#buffer.writeUInt32LE(data.length, this.#length)
    }
    this.#room(data.length)
    this.#buffer.set(data, this.#length)
    this.#length += data.length
  }

  #tuple(items: readonly PythonValue[], depth: number): void {
    if (items.length === 0) {
      this.bytes(OP.emptyTuple)
      return
    }
    this.bytes(OP.mark)
    for (const item of items) this.value(item, depth + 1)
    this.bytes(OP.tuple)
  }

  #dict({ entries }: PythonDict, depth: number): void {
    this.bytes(OP.emptyDict, OP.mark)
    for (const [key, value] of entries) {
      this.#once(`key ${key}`, () => this.#text(key))
      this.value(value, depth + 1)
    }
    this.bytes(OP.setItems)
  }

  #global({ module, name }: PythonGlobal): void {
    this.#once(`global ${module} ${name}`, () => {
      this.#text(module)
      this.#text(name)
      this.bytes(OP.global)
    })
  }

  /** Writes the value of `key`, or a reference to where it was written before. */
  #once(key: string, write: () => void): void {
    const known = this.#memo.get(key)
    if (known === undefined) {
      write()
      this.#memo.set(key, this.#memo.size)
      this.bytes(OP.memoize)
    } else if (known < 256) this.bytes(OP.get, known)
    else {
      this.#room(5)
      this.#buffer[this.#length++] = OP.longGet
      this.#length = this.#buffer.writeUInt32LE(known, this.#length)
    }
  }

  #room(bytes: number): void {
    if (this.#length + bytes <= this.#buffer.length) return
    const larger = Buffer.allocUnsafe(Math.max(2 * this.#buffer.length, this.#length + bytes))
    larger.set(this.#buffer.subarray(0, this.#length))
    this.#buffer = larger
  }
}

function invalid(what: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', `cannot be pickled: ${what}`)
}
