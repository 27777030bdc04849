/**
 * Checks that `bytes` are exactly one whole MessagePack value, without decoding it (format:
 * https://github.com/msgpack/msgpack/blob/master/spec.md). Decoders allocate the number of elements that an array announces
 * before they look for them, so a frame of a kilobyte with nested arrays of millions would take gigabytes.
 *
 * @throws Error with the byte at which it ends too early, or continues.
 */
export function checkMessagePack(bytes: Uint8Array): void {
  const { length } = bytes
  const view = new DataView(bytes.buffer, bytes.byteOffset, length)
  let at = 0
  /** Announced values that have not been seen yet: each takes at least one byte. */
  let owed = 1
  while (owed > 0) {
    if (owed > length - at) throw new Error(`${owed} values are announced after byte ${at}, of ${length}`)
    const head = bytes[at++]!
    owed--
    if (head < 0x80 || head >= 0xe0) continue
    if (head < 0x90) owed += 2 * (head & 0x0f)
    else if (head < 0xa0) owed += head & 0x0f
    else if (head < 0xc0) at += head & 0x1f
    else {
      const [width, kind, extra] = WIDE[head - 0xc0]!
      if (width > length - at) throw new Error(`a number is truncated at byte ${at}, of ${length}`)
      const count = width === 0 ? 0 : width === 1 ? bytes[at]! : width === 2 ? view.getUint16(at) : view.getUint32(at)
      at += width + extra
      if (kind === 'bytes') at += count
      else if (kind === 'values') owed += count
      else if (kind === 'pairs') owed += 2 * count
    }
    if (at > length) throw new Error(`bytes are truncated at byte ${length}`)
  }
  if (at < length) throw new Error(`the value ends at byte ${at}, of ${length}`)
}

/** Heads from 0xc0 to 0xdf: bytes of the count that follows, what is counted, and further bytes. */
const WIDE: readonly (readonly [width: 0 | 1 | 2 | 4, kind: 'bytes' | 'values' | 'pairs' | 'nothing', extra: number])[] = [
  // nil, never used, false, true
  ...Array.from({ length: 4 }, () => [0, 'nothing', 0] as const),
  // bin 8, 16, 32; ext 8, 16, 32 with their types
  ...([1, 2, 4] as const).map((width) => [width, 'bytes', 0] as const),
  ...([1, 2, 4] as const).map((width) => [width, 'bytes', 1] as const),
  // float 32, 64; uint 8 to 64; int 8 to 64
  ...[4, 8, 1, 2, 4, 8, 1, 2, 4, 8].map((extra) => [0, 'nothing', extra] as const),
  // fixext 1 to 16
  ...[1, 2, 4, 8, 16].map((extra) => [0, 'nothing', extra + 1] as const),
  // str 8, 16, 32; array 16, 32; map 16, 32
  ...([1, 2, 4] as const).map((width) => [width, 'bytes', 0] as const),
  ...([2, 4] as const).map((width) => [width, 'values', 0] as const),
  ...([2, 4] as const).map((width) => [width, 'pairs', 0] as const),
]
