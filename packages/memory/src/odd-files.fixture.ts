/** Safetensors files from a grammar: mostly legal, odd, or broken in one place. Reproducible by seed. */
import { DTYPE_BITS, DTYPES } from '@ckpt/contract'

/** Numbers from 0 to 1, equal for equal seeds (mulberry32). */
export function random(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A file, and its oddity. */
export interface OddFile {
  readonly what: string
  readonly bytes: Buffer
}

interface Entry {
  /** JSON texts, because JSON.stringify cannot write all of them. */
  name: string
  dtype: string
  shape: string
  offsets: string
  extra: string
}

interface Draft {
  entries: Entry[]
  metadata: string | undefined
  before: string
  after: string
  separator: string
  data: Buffer
  lengthOffset: bigint
  raw: Buffer | undefined
}

const NAMES = [
  '""',
  '"a"',
  '"b.weight"',
  '"__proto__"',
  '"constructor"',
  '"\\u00e9"',
  '"é"',
  '"e\\u0301"',
  '"a\\nb"',
  '"a\\u0000b"',
  '"模型.层"',
  '"😀"',
  '"\\ud83d\\ude00x"',
  '"q\\"uo\\\\te"',
  '"10"',
  '"9"',
  '" "',
  '"data_offsets"',
  `"${'n'.repeat(300)}"`,
]
const SHAPES = [
  [],
  [1],
  [2],
  [3],
  [0],
  [2, 3],
  [0, 4],
  [4, 0, 2],
  [1, 1, 1, 1, 1, 1, 1, 1, 1],
  [2, 1, 4],
  [8],
  [2 ** 31, 0],
  new Array<number>(64).fill(1),
]
const METADATA = [
  'null',
  '{}',
  '{"format":"pt"}',
  '{"":""}',
  '{"a":"b","c":"\\u00e9"}',
  ' { "k" : "v" } ',
  '{"step":3}',
  '{"a":null}',
  '[]',
  '""',
  '3',
  '{"a":{"b":"c"}}',
  '{"a":"b","a":"c"}',
  'nul',
  'true',
]
const NUMBERS = [
  '-1',
  '0',
  '1',
  '1.0',
  '1e0',
  '1E2',
  '0.5',
  '01',
  '+1',
  '-0',
  '"1"',
  'null',
  'true',
  '[1]',
  '{}',
  '9007199254740991',
  '9007199254740992',
  '9223372036854775808',
  '18446744073709551615',
  '18446744073709551616',
  '1e400',
  'NaN',
  '',
]
const TEXTS = [
  'null',
  '3',
  '"f32"',
  '"F8_E4M3FN"',
  '"BF8"',
  '""',
  '{"F32":null}',
  '["F32"]',
  '"F3\\u0032"',
  'F32',
  '"F64"',
  '"I4"',
  '"C128"',
]

type Oddity = (draft: Draft, next: () => number) => void
const pick = <T>(next: () => number, list: readonly T[]): T => list[Math.floor(next() * list.length)]!

/** Each makes a draft odd in one way, or does nothing if that is impossible. */
const ODDITIES: Record<string, Oddity> = {
  metadata: (draft, next) => (draft.metadata = pick(next, METADATA)),
  'white space': (draft, next) => {
    draft.after = pick(next, ['', ' ', '       ', '\n', '\t\r\n', '\0', '\v', '\u00a0', '}', '{}', ',', 'null', '// x'])
  },
  'before the header': (draft, next) => (draft.before = pick(next, [' ', '\n', '\ufeff', '[', 'x', '{'])),
  separator: (draft, next) => (draft.separator = pick(next, [' , ', ',\n', ',,', ';', '', ', '])),
  dtype: (draft, next) => edit(draft, next, (entry) => (entry.dtype = pick(next, TEXTS))),
  shape: (draft, next) =>
    edit(draft, next, (entry) => {
      entry.shape = pick(next, [
        `[${pick(next, NUMBERS)}]`,
        `[1,${pick(next, NUMBERS)}]`,
        `[${pick(next, NUMBERS)},0]`,
        '[[]]',
        'null',
        '{}',
        '"[1]"',
        '[1,]',
        '[,1]',
        `[${new Array(70).fill(1).join()}]`,
        '[4294967296,4294967296,4294967296]',
        '[4294967296,4294967296,0]',
      ])
    }),
  offsets: (draft, next) =>
    edit(draft, next, (entry) => {
      entry.offsets = pick(next, [
        `[0,${pick(next, NUMBERS)}]`,
        `[${pick(next, NUMBERS)},4]`,
        '[0]',
        '[0,1,2]',
        '[]',
        'null',
        '[4,0]',
        '{"0":0,"1":4}',
        '[0 , 4]',
        '[18446744073709551615,18446744073709551615]',
      ])
    }),
  name: (draft, next) =>
    edit(
      draft,
      next,
      (entry) =>
        (entry.name = pick(next, [
          '"\\ud800"',
          '"\\udc00x"',
          "'a'",
          'a',
          '3',
          'null',
          '"\t"',
          '"\\x41"',
          '"__metadata__"',
          '"\\u00"',
          '"a"',
        ])),
    ),
  'an extra key': (draft, next) =>
    edit(draft, next, (entry) => {
      entry.extra = pick(next, [
        ',"quant":{"x":[1,2,{"y":null}]}',
        ',"x":NaN',
        ',"x":Infinity',
        ',"x":1e999',
        ',"x":-0',
        ',"dtype":"F32"',
        ',"shape":[1]',
        ',"x":1,"x":2',
        ',"":""',
        ',',
        `,"deep":${'['.repeat(100)}${']'.repeat(100)}`,
        `,"deep":${'['.repeat(200)}${']'.repeat(200)}`,
        ',"x":tru',
        ',"x":"\\ud800"',
      ])
    }),
  'a missing key': (draft, next) =>
    edit(draft, next, (entry) => (entry[pick(next, ['dtype', 'shape', 'offsets'] as const)] = 'MISSING')),
  'a repeated tensor': (draft, next) => {
    const entry = draft.entries[0]
    if (entry !== undefined) draft.entries.push({ ...entry, ...(next() < 0.5 && { dtype: '"U8"' }) })
  },
  'a different order': (draft) => draft.entries.reverse(),
  'data cut or longer': (draft, next) => {
    const by = pick(next, [-1, -4, 1, 8])
    draft.data =
      by < 0 ? draft.data.subarray(0, Math.max(0, draft.data.length + by)) : Buffer.concat([draft.data, Buffer.alloc(by, 1)])
  },
  'a different length': (draft, next) => (draft.lengthOffset = pick(next, [1n, -1n, 8n, -8n, 1000n, 2n ** 40n, 2n ** 62n])),
  'bytes that are not UTF-8': (draft, next) =>
    edit(draft, next, (entry) => (entry.name = `"${String.fromCharCode(0xdc80 + Math.floor(next() * 64))}"`)),
  'no object': (draft, next) =>
    (draft.raw = Buffer.from(
      pick(next, [
        '',
        '{',
        '[]',
        'null',
        '""',
        '{"a":null}',
        '{"a":3}',
        '{"a":["F32",[1],[0,4]]}',
        '{}',
        '{ }',
        '{"__metadata__":{"format":"pt"}}',
        '{"a":{}}',
      ]),
    )),
  'a different kind of file': (draft, next) => {
    draft.raw = undefined
    draft.entries = []
    draft.lengthOffset = -1n
    draft.data = pick(next, FOREIGN)
  },
}

/** Whole files of other kinds, in place of the data. */
const FOREIGN = [
  Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:abababab\nsize 4976698672\n'),
  Buffer.from('<!DOCTYPE html><html><head><title>401</title></head></html>'),
  Buffer.from('GGUF\x03\0\0\0\0\0\0\0'),
  Buffer.from('PK\x03\x04\x14\0\0\0\0\0archive/data.pkl'),
  Buffer.from('PK\x03\x04\x14\0\0\0\0\0README.md'),
  Buffer.from([0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9]),
  Buffer.from('\x93NUMPY\x01\0v\0{}', 'latin1'),
  Buffer.from('{"weight_map": {"a": "b.safetensors"}}'),
  Buffer.alloc(64),
  Buffer.alloc(0),
  Buffer.from('x'),
  Buffer.from([0, 5, 0x16, 7, 0, 2, 0, 0, 0x4d, 0x61, 0x63]),
  Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]),
]

function edit(draft: Draft, next: () => number, change: (entry: Entry) => void): void {
  if (draft.entries.length > 0) change(pick(next, draft.entries))
}

/** Returns the n-th file of a seed. */
export function oddFile(seed: number, n: number): OddFile {
  const next = random(seed * 1_000_003 + n)
  const draft = plain(next)
  const what: string[] = []
  const oddities = next() < 0.15 ? 0 : next() < 0.8 ? 1 : 2
  for (let i = 0; i < oddities; i++) {
    const name = pick(next, Object.keys(ODDITIES))
    what.push(name)
    ODDITIES[name]!(draft, next)
  }
  return { what: what.join(' and ') || 'nothing', bytes: write(draft) }
}

/** Returns a legal file: tensors of any dtype and shape, in any order. */
function plain(next: () => number): Draft {
  const names = [...NAMES].sort(() => next() - 0.5).slice(0, Math.floor(next() * 6))
  let end = 0
  const entries = names.flatMap((name): Entry[] => {
    const dtype = pick(next, DTYPES)
    const shape = pick(next, SHAPES)
    const bits = shape.reduce((product, length) => product * length, 1) * DTYPE_BITS[dtype]
    if (bits % 8 !== 0) return []
    const begin = end
    end += bits / 8
    return [{ name, dtype: JSON.stringify(dtype), shape: JSON.stringify(shape), offsets: `[${begin},${end}]`, extra: '' }]
  })
  if (next() < 0.5) entries.sort(() => next() - 0.5)
  const data = Buffer.from(Array.from({ length: end }, () => Math.floor(next() * 256)))
  return {
    entries,
    metadata: next() < 0.3 ? pick(next, METADATA.slice(0, 6)) : undefined,
    before: '',
    after: ' '.repeat(Math.floor(next() * 8)),
    separator: ',',
    data,
    lengthOffset: 0n,
    raw: undefined,
  }
}

function write({ entries, metadata, before, after, separator, data, lengthOffset, raw }: Draft): Buffer {
  const members = entries.map(({ name, dtype, shape, offsets, extra }) => {
    const fields = [
      ['dtype', dtype],
      ['shape', shape],
      ['data_offsets', offsets],
    ].flatMap(([key, value]) => (value === 'MISSING' ? [] : [`"${key}":${value}`]))
    return `${name}:{${fields.join(',')}${extra}}`
  })
  if (metadata !== undefined) members.unshift(`"__metadata__":${metadata}`)
  const text = raw ?? bytesOf(`${before}{${members.join(separator)}}${after}`)
  if (lengthOffset === -1n && entries.length === 0 && raw === undefined) return data
  const length = Buffer.alloc(8)
  const stated = BigInt(text.length) + lengthOffset
  length.writeBigUInt64LE(stated < 0n ? 0n : stated)
  return Buffer.concat([length, text, data])
}

/** Encodes as UTF-8, in which a lone low surrogate U+DC80 … U+DCFF becomes the byte it represents. */
function bytesOf(text: string): Buffer {
  return Buffer.concat(
    text
      .split(/([\udc80-\udcff])(?<![\ud800-\udbff].)/u)
      .map((part) => (/^[\udc80-\udcff]$/.test(part) ? Buffer.from([part.charCodeAt(0) - 0xdc00]) : Buffer.from(part))),
  )
}
