import { CkptError } from '@ckpt/contract'

/** Width in bytes of an unsigned column. */
export type ColumnWidth = 1 | 2 | 4

/** Returns the narrowest column that holds values up to `max`. */
export function columnWidth(max: number): ColumnWidth {
  return max <= 0xff ? 1 : max <= 0xffff ? 2 : 4
}

/** A little-endian byte sink that grows. */
export class ByteWriter {
  #bytes: Buffer
  #length = 0

  constructor(capacity: number) {
    this.#bytes = Buffer.allocUnsafeSlow(capacity)
  }

  u8(value: number): void {
    this.#reserve(1)
    this.#bytes[this.#length++] = value
  }

  u16(value: number): void {
    this.#reserve(2)
    this.#length = this.#bytes.writeUInt16LE(value, this.#length)
  }

  u32(value: number): void {
    this.#reserve(4)
    this.#length = this.#bytes.writeUInt32LE(value, this.#length)
  }

  /** Writes a non-negative safe integer as LEB128. */
  varint(value: number): void {
    this.#reserve(8)
    let rest = value
    while (rest > 0x7f) {
      this.#bytes[this.#length++] = (rest % 0x80) | 0x80
      rest = Math.floor(rest / 0x80)
    }
    this.#bytes[this.#length++] = rest
  }

  bytes(source: Uint8Array): void {
    this.#reserve(source.byteLength)
    this.#bytes.set(source, this.#length)
    this.#length += source.byteLength
  }

  /** Writes a string as its length in UTF-8 bytes and those bytes. */
  text(value: string): void {
    const bytes = Buffer.from(value, 'utf8')
    this.varint(bytes.byteLength)
    this.bytes(bytes)
  }

  column(values: Uint8Array | Uint16Array | Uint32Array, width: ColumnWidth): void {
    const narrow =
      values.BYTES_PER_ELEMENT === width
        ? values
        : width === 1
          ? Uint8Array.from(values)
          : width === 2
            ? Uint16Array.from(values)
            : Uint32Array.from(values)
    this.bytes(new Uint8Array(narrow.buffer, narrow.byteOffset, narrow.byteLength))
  }

  /** Returns the written bytes; they share memory with the writer, which must not be used afterwards. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }

  #reserve(more: number): void {
    const needed = this.#length + more
    if (needed <= this.#bytes.byteLength) return
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.#bytes.byteLength * 2))
    grown.set(this.#bytes.subarray(0, this.#length))
    this.#bytes = grown
  }
}

/** Returns the error for metas that cannot be decoded; `field` locates the problem. */
export function malformed(field: string, why: string): CkptError {
  return new CkptError('METAS_MALFORMED', `metas: ${field}: ${why}`, { fields: { field } })
}

/**
 * Reads the output of a {@link ByteWriter}. Every read names its field, so that an error locates the problem in the payload.
 */
export class ByteReader {
  readonly #bytes: Buffer
  #position = 0

  constructor(payload: Uint8Array) {
    this.#bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength)
  }

  get remaining(): number {
    return this.#bytes.byteLength - this.#position
  }

  u8(field: string): number {
    return this.#bytes[this.#take(1, field)]!
  }

  u16(field: string): number {
    return this.#bytes.readUInt16LE(this.#take(2, field))
  }

  u32(field: string): number {
    return this.#bytes.readUInt32LE(this.#take(4, field))
  }

  varint(field: string): number {
    let value = 0
    let scale = 1
    for (let i = 0; i < 8; i++) {
      const byte = this.u8(field)
      value += (byte & 0x7f) * scale
      if (byte < 0x80) {
        if (!Number.isSafeInteger(value)) throw malformed(field, 'number over 2^53 - 1')
        return value
      }
      scale *= 0x80
    }
    throw malformed(field, 'number of more than 8 bytes')
  }

  /**
   * Reads a number of items that each need at least `minBytes` of the remaining bytes: a false count cannot cause large
   * allocations.
   */
  count(field: string, minBytes: number): number {
    return this.fits(this.varint(field), field, minBytes)
  }

  /** Returns `count` itself. @throws CkptError if that many items of `minBytes` cannot follow. */
  fits(count: number, field: string, minBytes: number): number {
    if (count * minBytes > this.remaining) throw malformed(field, `${count} entries do not fit in ${this.remaining} bytes`)
    return count
  }

  /** Returns a view of the next `length` bytes. */
  bytes(length: number, field: string): Buffer {
    const start = this.#take(length, field)
    return this.#bytes.subarray(start, start + length)
  }

  width(field: string): ColumnWidth {
    const width = this.u8(field)
    if (width !== 1 && width !== 2 && width !== 4) throw malformed(field, `column width ${width}`)
    return width
  }

  column(count: number, width: ColumnWidth, field: string): Uint8Array | Uint16Array | Uint32Array {
    const view = this.bytes(count * width, field)
    const copy = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength)
    return width === 1 ? new Uint8Array(copy) : width === 2 ? new Uint16Array(copy) : new Uint32Array(copy)
  }

  #take(length: number, field: string): number {
    const start = this.#position
    if (length > this.remaining) throw malformed(field, `needs ${length} bytes, but only ${this.remaining} are left`)
    this.#position = start + length
    return start
  }
}
