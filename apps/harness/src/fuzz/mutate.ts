/** A source of reproducible random numbers. */
export interface Numbers {
  /** A whole number below `limit`. */
  readonly below: (limit: number) => number
  readonly pick: <T>(items: readonly T[]) => T
}

/** Reproducible random numbers (mulberry32). */
export function random(seed: number): Numbers {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  const below = (limit: number) => Math.floor(next() * limit)
  return { below, pick: (items) => items[below(items.length)]! }
}

const BORDERS = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff]
const WIDE = [2n ** 53n - 1n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n]

const MUTATIONS: readonly ((bytes: Buffer, numbers: Numbers) => Buffer)[] = [
  // one bit
  (bytes, { below }) => edit(bytes, below, (at) => (bytes[at]! ^= 1 << below(8))),
  // one byte
  (bytes, { below }) => edit(bytes, below, (at) => (bytes[at] = below(256))),
  // a number at a border, in a width and order of its own
  (bytes, { below, pick }) => {
    const width = pick([1, 2, 4, 8])
    if (bytes.length < width) return bytes
    const at = below(bytes.length - width + 1)
    const view = new DataView(bytes.buffer, bytes.byteOffset)
    const little = below(2) === 0
    if (width === 8) view.setBigUint64(at, pick(WIDE), little)
    else if (width === 4) view.setUint32(at, pick(BORDERS), little)
    else if (width === 2) view.setUint16(at, pick(BORDERS) & 0xffff, little)
    else view.setUint8(at, pick(BORDERS) & 0xff)
    return bytes
  },
  // cut short, or a part taken out
  (bytes, { below }) => bytes.subarray(0, below(bytes.length + 1)),
  (bytes, { below }) => {
    const [from, to] = range(bytes, below)
    return Buffer.concat([bytes.subarray(0, from), bytes.subarray(to)])
  },
  // a part twice, many times, or elsewhere
  (bytes, { below }) => {
    const [from, to] = range(bytes, below)
    const times = below(4) === 0 ? below(200) : 1
    return Buffer.concat([
      bytes.subarray(0, to),
      ...Array.from({ length: times }, () => bytes.subarray(from, to)),
      bytes.subarray(to),
    ])
  },
  // bytes put in
  (bytes, { below }) => {
    const at = below(bytes.length + 1)
    const more = Buffer.from(Array.from({ length: 1 + below(8) }, () => below(256)))
    return Buffer.concat([bytes.subarray(0, at), more, bytes.subarray(at)])
  },
  // a decimal number made another one
  (bytes, { below, pick }) => {
    const text = bytes.toString('latin1')
    const numbers = [...text.matchAll(/\d+/g)]
    if (numbers.length === 0) return bytes
    const { 0: found, index } = numbers[below(numbers.length)]!
    const values = [
      0,
      -1,
      1,
      2 ** 31,
      2 ** 32,
      '9007199254740991',
      '9007199254740993',
      '18446744073709551616',
      '1e400',
      '1.5',
      Number(found) + 1,
    ]
    return Buffer.from(text.slice(0, index) + String(pick(values)) + text.slice(index + found.length), 'latin1')
  },
]

/** `input`, or a mix of it and `other`, mutated a few times. */
export function mutate(input: Uint8Array, other: Uint8Array, numbers: Numbers): Buffer {
  let bytes: Buffer = Buffer.from(input)
  if (numbers.below(8) === 0) {
    const cut = numbers.below(bytes.length + 1)
    bytes = Buffer.concat([bytes.subarray(0, cut), other.subarray(numbers.below(other.length + 1))])
  }
  for (let times = 1 + numbers.below(4); times > 0; times--) {
    bytes = Buffer.from(numbers.pick(MUTATIONS)(bytes, numbers))
    if (bytes.length > 1 << 18) bytes = bytes.subarray(0, 1 << 18)
  }
  return bytes
}

function edit(bytes: Buffer, below: Numbers['below'], change: (at: number) => void): Buffer {
  if (bytes.length > 0) change(below(bytes.length))
  return bytes
}

function range(bytes: Buffer, below: Numbers['below']): [number, number] {
  const a = below(bytes.length + 1)
  const b = below(bytes.length + 1)
  return a < b ? [a, b] : [b, a]
}
