import { malformed, quote } from './malformed.ts'

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const COLON = 0x3a
const ZERO = 0x30
const NINE = 0x39
const MAX_DEPTH = 128
const INTERN_BYTES = 12
const LONE_SURROGATE = /\p{Surrogate}/u
const LITERALS = ['true', 'false', 'null'].map((text) => Buffer.from(text))
const NON_FINITE = ['NaN', 'Infinity', '-Infinity'].map((text) => Buffer.from(text))
const NUMBER = /^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$/

/**
 * Reads JSON (RFC 8259) from bytes by recursive descent, value by value.
 *
 * `JSON.parse` cannot be used on untrusted headers: it drops all but the last of several equal keys and silently rounds
 * integers above 2^53. One pass over the bytes that builds only what is needed is also faster than parsing and then checking.
 * The bytes must be valid UTF-8.
 */
export class JsonCursor {
  /** Name of the current field, for errors. */
  field: string
  tensor: string | undefined
  readonly #bytes: Buffer
  readonly #file: string
  readonly #literals: readonly Buffer[]
  readonly #nonFinite: boolean
  readonly #known: string[] = []
  #at: number

  /** With `nonFinite`, `NaN`, `Infinity` and `-Infinity` are values that may be skipped, as in Python's `json`. */
  constructor(bytes: Buffer, file: string, field: string, options: { nonFinite?: boolean } = {}) {
    this.#bytes = bytes
    this.#file = file
    this.#nonFinite = options.nonFinite === true
    this.#literals = this.#nonFinite ? [...NON_FINITE, ...LITERALS] : LITERALS
    this.field = field
    this.#at = 0
  }

  /** Returns an error about the current field. */
  fail(message: string): Error {
    return malformed({ file: this.#file, tensor: this.tensor, field: this.field }, message)
  }

  #syntax(expected: string): Error {
    const found = this.#at < this.#bytes.length ? quote(String.fromCharCode(this.#bytes[this.#at]!)) : 'the end'
    return this.fail(`bad JSON in ${this.field}: expected ${expected} but found ${found} at byte ${this.#at}`)
  }

  /** Skips white space and returns the next byte without consuming it; -1 at the end. */
  peek(): number {
    const bytes = this.#bytes
    let at = this.#at
    while (at < bytes.length) {
      const byte = bytes[at]!
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) break
      at++
    }
    this.#at = at
    return at < bytes.length ? bytes[at]! : -1
  }

  #take(byte: number, expected: string): void {
    if (this.peek() !== byte) throw this.#syntax(expected)
    this.#at++
  }

  /** Reads an object: `member` is called with each key and must read its value. Equal keys must be refused by `member`. */
  object(member: (key: string) => void): void {
    this.#take(0x7b, 'an object')
    if (this.peek() === 0x7d) {
      this.#at++
      return
    }
    for (;;) {
      const key = this.string('a key')
      this.#take(COLON, '":"')
      member(key)
      const next = this.peek()
      if (next !== COMMA && next !== 0x7d) throw this.#syntax('"," or "}"')
      this.#at++
      if (next === 0x7d) return
    }
  }

  /** Reads an object, like {@link object}, member by member: the caller must read the value of a key before the next key. */
  *members(): Generator<string, void> {
    this.#take(0x7b, 'an object')
    if (this.peek() === 0x7d) {
      this.#at++
      return
    }
    for (;;) {
      const key = this.string('a key')
      this.#take(COLON, '":"')
      yield key
      const next = this.peek()
      if (next !== COMMA && next !== 0x7d) throw this.#syntax('"," or "}"')
      this.#at++
      if (next === 0x7d) return
    }
  }

  /** Reads an array: `element` is called before each element and must read it. */
  array(element: () => void): void {
    this.#take(0x5b, 'an array')
    if (this.peek() === 0x5d) {
      this.#at++
      return
    }
    for (;;) {
      element()
      const next = this.peek()
      if (next !== COMMA && next !== 0x5d) throw this.#syntax('"," or "]"')
      this.#at++
      if (next === 0x5d) return
    }
  }

  /** Reads a string. */
  string(expected = 'a string'): string {
    this.#take(QUOTE, expected)
    const bytes = this.#bytes
    const start = this.#at
    let at = start
    let seen = 0
    let escaped = false
    for (;;) {
      if (at >= bytes.length) throw this.fail(`bad JSON in ${this.field}: the string at byte ${start} does not end`)
      const byte = bytes[at]!
      if (byte === QUOTE) break
      if (byte < 0x20) throw this.fail(`bad JSON in ${this.field}: control character ${byte} in the string at byte ${start}`)
      if (byte === BACKSLASH) {
        escaped = true
        at++
      }
      seen |= byte
      at++
    }
    this.#at = at + 1
    if (escaped) return this.#unescape(start, at)
    if (seen >= 0x80) return bytes.toString('utf8', start, at)
    return at - start <= INTERN_BYTES ? this.#intern(start, at) : bytes.toString('latin1', start, at)
  }

  /** Returns a short ASCII string, created only once if it repeats: most strings of a header are its few keys and dtypes. */
  #intern(start: number, end: number): string {
    const bytes = this.#bytes
    const slot = end > start ? (bytes[start]! + 7 * bytes[end - 1]! + 31 * (end - start)) & 63 : 0
    const known = this.#known[slot]
    if (known?.length === end - start) {
      let i = 0
      while (i < known.length && known.charCodeAt(i) === bytes[start + i]) i++
      if (i === known.length) return known
    }
    return (this.#known[slot] = bytes.toString('latin1', start, end))
  }

  #unescape(start: number, end: number): string {
    let text: string
    try {
      text = JSON.parse(this.#bytes.toString('utf8', start - 1, end + 1)) as string
    } catch {
      throw this.fail(`bad JSON in ${this.field}: bad escape in the string at byte ${start}`)
    }
    if (LONE_SURROGATE.test(text)) throw this.fail(`bad JSON in ${this.field}: lone surrogate in the string at byte ${start}`)
    return text
  }

  /** Reads an integer from 0 to 2^53 - 1, written without sign, fraction or exponent. */
  integer(): number {
    const first = this.peek()
    const bytes = this.#bytes
    const start = this.#at
    if (first === 0x2d) throw this.fail(`${this.field} holds ${this.#shownNumber()}: it may not be negative`)
    if (first < ZERO || first > NINE) throw this.#syntax('a whole number')
    let value = 0
    let at = start
    for (; at < bytes.length; at++) {
      const byte = bytes[at]!
      if (byte < ZERO || byte > NINE) break
      // A sum above 2^53 may be rounded, but never down to a safe integer.
      value = value * 10 + (byte - ZERO)
    }
    const next = bytes[at]
    if (next === 0x2e || next === 0x65 || next === 0x45) {
      throw this.fail(`${this.field} holds ${this.#shownNumber()}: it must be a whole number without fraction or exponent`)
    }
    if (first === ZERO && at - start > 1) throw this.#syntax('a number without leading zeros')
    if (value > Number.MAX_SAFE_INTEGER) throw this.fail(`${this.field} holds ${this.#shownNumber()}, which is over 2^53 - 1`)
    this.#at = at
    return value
  }

  /** Reads the number at the cursor and returns its text; it must be a JSON number. */
  #number(): string {
    const bytes = this.#bytes
    let end = this.#at
    while (end < bytes.length && '+-.eE0123456789'.includes(String.fromCharCode(bytes[end]!))) end++
    const text = bytes.toString('latin1', this.#at, end)
    if (!NUMBER.test(text)) throw this.#syntax('a number')
    this.#at = end
    return text
  }

  /** The same for messages: long ones are truncated. */
  #shownNumber(): string {
    const text = this.#number()
    return text.length > 40 ? `${text.slice(0, 40)}…` : text
  }

  /** Reads `true`, `false` or `null` if one comes next, and returns it; returns undefined, with nothing read, otherwise. */
  literal(): string | undefined {
    this.peek()
    const literal = this.#literals.find((text) => this.#bytes.subarray(this.#at, this.#at + text.length).equals(text))
    this.#at += literal?.length ?? 0
    return literal?.toString('latin1')
  }

  /** Reads and drops a value of any kind. */
  skip(depth = 0): void {
    if (depth > MAX_DEPTH) throw this.fail(`bad JSON in ${this.field}: nested deeper than ${MAX_DEPTH}`)
    const next = this.peek()
    if (next === 0x7b) {
      const keys = new Set<string>()
      this.object((key) => {
        if (keys.has(key)) throw this.fail(`bad JSON in ${this.field}: key ${quote(key)} appears twice`)
        keys.add(key)
        this.skip(depth + 1)
      })
    } else if (next === 0x5b) this.array(() => this.skip(depth + 1))
    else if (next === QUOTE) this.string()
    else if (!this.literal()) {
      if (next !== 0x2d && (next < ZERO || next > NINE)) throw this.#syntax('a value')
      // Like the reference implementation, which also reads numbers that it does not use.
      if (!Number.isFinite(Number(this.#number())) && !this.#nonFinite)
        throw this.fail(`${this.field} holds a number out of range`)
    }
  }

  /** Checks that only white space follows. */
  end(): void {
    if (this.peek() !== -1) throw this.#syntax('the end')
  }
}
