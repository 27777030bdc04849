import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { CkptError, DTYPES, tensorAt } from '@ckpt/contract'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ParameterServer } from './parameter-server.ts'

const sha = (content: Uint8Array | string) => createHash('sha256').update(content).digest('hex').slice(0, 32)
const SAFE = Number.MAX_SAFE_INTEGER

/** Metas as encoded in bytes (packages/rendezvous/src/metas/format.ts), with any number in any place. */
interface Spoken {
  magic: number
  version: number
  flags: number
  rank: number
  host: string
  segments: { kind: number; bytes: number }[]
  shapes: number[][]
  kinds: { dtype: number; shape: number }[]
  /** Numbers of items as encoded, if they differ from the actual ones. */
  counts: { segments?: number; shapes?: number; kinds?: number; tensors?: number; names?: number }
  tensors: { prefix: number; id: number; kind: number }[]
  names: string[]
  runs: [segment: number, length: number][]
  alignment: number
  offsets: [skipped: number, offset: number][]
  digests: Uint8Array
  end: Uint8Array
}

/** Two tensors of 16 bytes in a segment of 64. */
const plain = (): Spoken => ({
  magic: 0x4d504b43,
  version: 1,
  flags: 0,
  rank: 0,
  host: 'h',
  segments: [{ kind: 0, bytes: 64 }],
  shapes: [[4, 2]],
  kinds: [{ dtype: DTYPES.indexOf('BF16'), shape: 0 }],
  counts: {},
  tensors: [
    { prefix: 0, id: 0, kind: 0 },
    { prefix: 0, id: 1, kind: 0 },
  ],
  names: ['a', 'b'],
  runs: [[0, 2]],
  alignment: 0,
  offsets: [],
  digests: new Uint8Array(0),
  end: new Uint8Array(0),
})

function payloadOf(said: Spoken): Buffer {
  const bytes: number[] = []
  const parts: Uint8Array[] = []
  const u8 = (value: number) => bytes.push(value & 0xff)
  const varint = (value: number) => {
    let rest = BigInt(value) & 0xffff_ffff_ffff_ffffn
    for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80)
    bytes.push(Number(rest))
  }
  const raw = (value: Uint8Array) => {
    parts.push(Uint8Array.from(bytes.splice(0)), value)
  }
  const text = (value: string) => {
    varint(Buffer.byteLength(value))
    raw(Buffer.from(value))
  }
  const { counts, tensors, names } = said
  raw(Buffer.from(Uint32Array.of(said.magic).buffer))
  raw(Buffer.from(Uint16Array.of(said.version, said.flags).buffer))
  varint(said.rank)
  text(said.host)
  text('GPU-1')
  varint(counts.segments ?? said.segments.length)
  for (const { kind, bytes: size } of said.segments) {
    u8(kind)
    varint(size)
  }
  varint(counts.shapes ?? said.shapes.length)
  for (const shape of said.shapes) [shape.length, ...shape].forEach(varint)
  varint(counts.kinds ?? said.kinds.length)
  for (const { dtype, shape } of said.kinds) {
    u8(dtype)
    varint(shape)
  }
  varint(counts.tensors ?? tensors.length)
  u8(2)
  raw(new Uint8Array(Uint16Array.from(tensors, ({ prefix }) => prefix).buffer))
  varint(counts.names ?? names.length)
  u8(1)
  raw(Uint8Array.from(tensors, ({ id }) => id))
  for (const name of names) varint(Buffer.byteLength(name))
  raw(Buffer.from(names.join('')))
  u8(1)
  raw(Uint8Array.from(tensors, ({ kind }) => kind))
  said.runs.flat().forEach(varint)
  u8(said.alignment)
  varint(said.offsets.length)
  said.offsets.flat().forEach(varint)
  raw(said.digests)
  raw(said.end)
  return Buffer.concat(parts)
}

interface Listed {
  rank: number
  digest: string
  metas: string
}
const listed = (payload: Uint8Array, rank = 0): Listed => ({
  rank,
  digest: sha(payload),
  metas: Buffer.from(payload).toString('base64'),
})
const fileOf = (ranks: readonly Listed[], more: object = {}) => ({
  format: 'ckpt-metas',
  version: 1,
  checkpoint: 'a',
  digest: sha([...ranks].sort((a, b) => a.rank - b.rank).reduce((all, { digest }) => `${all}${digest}\n`, '')),
  ranks,
  access: [],
  ...more,
})

describe('saved metas whose sums are right', () => {
  let directory: string
  let server: ParameterServer
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'ckpt-metas-'))
    server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 1000 })
  })
  afterAll(async () => {
    await server.close()
    rmSync(directory, { recursive: true })
  })
  const load = (content: unknown) => {
    const path = join(directory, 'metas.json')
    writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content), { mode: 0o600 })
    return server.loadMetas(path)
  }
  const spoken = (change: (said: Spoken) => void) => {
    const said = plain()
    change(said)
    return fileOf([listed(payloadOf(said))])
  }

  it('are taken as they are', async () => {
    const manifest = await load(spoken(() => undefined))
    const { tensors } = manifest.ranks[0]!
    expect([0, 1].map((i) => tensorAt(tensors, i))).toMatchObject([
      { name: 'a', dtype: 'BF16', shape: [4, 2], offset: 0, bytes: 16 },
      { name: 'b', offset: 16 },
    ])
  })

  it.each<[string, (said: Spoken) => void, string]>([
    ['an offset past the segment', (said) => said.offsets.push([1, 49]), 'tensors.offset'],
    ['an offset of 2^53 - 1', (said) => said.offsets.push([0, SAFE]), 'tensors.offset'],
    ['an offset that is negative in 64 bits', (said) => said.offsets.push([0, -1]), 'tensors.offset'],
    ['offsets of tensors that there are not', (said) => said.offsets.push([0, 0], [7, 0]), 'tensors.offset'],
    ['a rank of more than eight bytes', (said) => (said.rank = -1), 'rank'],
    ['a segment of 2^63 bytes', (said) => (said.segments[0]!.bytes = -(2 ** 63)), 'segments.bytes'],
    ['a kind of segment that there is not', (said) => (said.segments[0]!.kind = 9), 'segments.kind'],
    ['no segment', (said) => (said.segments = []), 'tensors.segment'],
    ['a segment that there is not', (said) => (said.runs = [[1, 2]]), 'tensors.segment'],
    ['runs of no length', (said) => (said.runs = [[0, 0]]), 'tensors.segment'],
    ['a run longer than the tensors', (said) => (said.runs = [[0, SAFE]]), 'tensors.segment'],
    ['a dtype that there is not', (said) => (said.kinds[0]!.dtype = 200), 'kinds.dtype'],
    ['a shape that there is not', (said) => (said.kinds[0]!.shape = 5), 'kinds.shape'],
    ['a kind that there is not', (said) => (said.tensors[1]!.kind = 1), 'kinds.id'],
    ['dimensions whose product overflows', (said) => (said.shapes = [[2 ** 32, 2 ** 32]]), 'shapes'],
    ['dimensions whose product wraps to 16 bytes', (said) => (said.shapes = [[2 ** 31, 2 ** 30, 8]]), 'shapes'],
    ['255 dimensions', (said) => (said.shapes = [Array<number>(255).fill(1)]), 'shapes.dimensions'],
    ['a tensor larger than its segment', (said) => (said.shapes = [[4, 9]]), 'tensors.offset'],
    ['2^53 - 1 segments', (said) => (said.counts.segments = SAFE), 'segments'],
    ['2^32 shapes', (said) => (said.counts.shapes = 2 ** 32), 'shapes'],
    ['2^40 kinds', (said) => (said.counts.kinds = 2 ** 40), 'kinds'],
    ['2^32 tensors', (said) => (said.counts.tensors = 2 ** 32), 'tensors'],
    ['2^32 names', (said) => (said.counts.names = 2 ** 32), 'names.dictionary'],
    ['a name that shares with one before the first', (said) => (said.tensors[0]!.prefix = 1), 'names.prefix'],
    ['a name that shares more than there is', (said) => (said.tensors[1]!.prefix = 2), 'names.prefix'],
    ['a name that there is not', (said) => (said.tensors[1]!.id = 7), 'names.id'],
    ['a name of a mebibyte', (said) => (said.names[0] = 'x'.repeat(2 ** 20)), 'names.length'],
    ['a host of a mebibyte', (said) => (said.host = 'h'.repeat(2 ** 20)), 'host'],
    ['an alignment of 2^255', (said) => (said.alignment = 255), 'alignment'],
    ['digests that are missing', (said) => (said.flags = 1), 'tensors.digest'],
    [
      'digests of fifteen bytes for two tensors',
      (said) => ((said.flags = 1), (said.digests = new Uint8Array(15))),
      'tensors.digest',
    ],
    ['digests of three tensors for two', (said) => ((said.flags = 1), (said.digests = new Uint8Array(24))), 'end'],
    ['digests that were not announced', (said) => (said.digests = new Uint8Array(16)), 'end'],
    ['flags that there are not', (said) => (said.flags = 0x8000), 'flags'],
    ['a version to come', (said) => (said.version = 2), 'version'],
    ['a magic of others', (said) => (said.magic = 0x04034b50), 'magic'],
    ['something after the end', (said) => (said.end = Buffer.alloc(100)), 'end'],
  ])('are refused by field for %s', async (_, change, field) => {
    await expect(load(spoken(change))).rejects.toMatchObject({ code: 'METAS_MALFORMED', fields: { field } })
  })

  const good = () => listed(payloadOf(plain()))
  const other = () => listed(payloadOf({ ...plain(), rank: 1 }), 1)
  it.each<[string, () => unknown]>([
    ['a rank twice', () => fileOf([good(), good()])],
    ['a rank under the number of a different one', () => fileOf([{ ...good(), rank: 3 }])],
    [
      'two ranks under each other’s digests',
      () =>
        fileOf([
          { ...good(), digest: other().digest },
          { ...other(), digest: good().digest },
        ]),
    ],
    ['a digest that is too short', () => fileOf([{ ...good(), digest: good().digest.slice(1) }])],
    ['a digest that is too long', () => fileOf([{ ...good(), digest: `${good().digest}0` }])],
    ['a digest in capitals', () => fileOf([{ ...good(), digest: good().digest.toUpperCase() }])],
    ['no digest', () => fileOf([{ ...good(), digest: '' }])],
    ['the whole file’s digest of something else', () => fileOf([good()], { digest: '0'.repeat(32) })],
    ['metas that are compressed', () => fileOf([listed(gzipSync(payloadOf(plain())))])],
    ['metas in base64 of base64', () => fileOf([listed(Buffer.from(payloadOf(plain()).toString('base64')))])],
    ['no bytes', () => fileOf([listed(Buffer.alloc(0))])],
    ['a whole file that is compressed', () => gzipSync(JSON.stringify(fileOf([good()]))).toString('latin1')],
    ['no ranks', () => fileOf([])],
    ['ranks with a length of their own', () => ({ ...fileOf([good()]), ranks: { length: 2 ** 32 - 1, 0: good() } })],
    ['__proto__ in place of ranks', () => JSON.stringify(fileOf([good()])).replace('"ranks"', '"__proto__"')],
    ['access of a negative rank', () => fileOf([good()], { access: [{ rank: -1, points: [] }] })],
    ['100,000 ways to read a rank', () => fileOf([good()], { access: [{ rank: 0, points: Array(10 ** 5).fill(null) }] })],
  ])('of a file with %s are refused', async (_, content) => {
    await expect(load(content())).rejects.toMatchObject({ code: 'METAS_MALFORMED' })
  })

  it.each(['__proto__', 'constructor', 'toString', 'hasOwnProperty'])(
    'may be called %s, which is a name like others',
    async (name) => {
      const said = plain()
      said.names = [name, `${name}.weight`]
      const manifest = await load(fileOf([listed(payloadOf(said))], { checkpoint: name }))
      expect(manifest).toMatchObject({ checkpoint: name })
      expect(tensorAt(manifest.ranks[0]!.tensors, 0).name).toBe(name)
      expect(({} as Record<string, unknown>)['weight']).toBeUndefined()
      await expect(server.update(name, { engine: undefined as never })).rejects.toBeInstanceOf(Error)
    },
  )

  it('take no more memory than their size lets expect, however long the names that few bytes make', async () => {
    for (const unit of ['x', 'é']) {
      const count = 2 ** 18
      const said = plain()
      said.names = [unit.repeat(512)]
      said.shapes = [[0]]
      said.tensors = Array.from({ length: count }, (_, i) => ({ prefix: i % 64 === 0 ? 0 : 512, id: 0, kind: 0 }))
      said.runs = [[0, count]]
      const content = JSON.stringify(fileOf([listed(payloadOf(said))]))
      const before = process.memoryUsage.rss()
      await expect(load(content)).rejects.toMatchObject({ code: 'METAS_MALFORMED', fields: { field: 'names.length' } })
      expect((process.memoryUsage.rss() - before) / 2 ** 20).toBeLessThan(150)
    }
  })

  it('with anything in several places are refused by field, or lie within their segments', async () => {
    const number = fc.oneof(fc.nat(3), fc.constantFrom(16, 48, 49, 255, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 60, -1))
    const change = fc.oneof(
      fc.tuple(fc.constant('offsets' as const), fc.array(fc.tuple(number, number), { maxLength: 3 })),
      fc.tuple(fc.constant('runs' as const), fc.array(fc.tuple(number, number), { maxLength: 3 })),
      fc.tuple(fc.constant('shapes' as const), fc.array(fc.array(number, { maxLength: 4 }), { maxLength: 3 })),
      fc.tuple(fc.constant('kinds' as const), fc.array(fc.record({ dtype: number, shape: number }), { maxLength: 3 })),
      fc.tuple(fc.constant('segments' as const), fc.array(fc.record({ kind: number, bytes: number }), { maxLength: 3 })),
      fc.tuple(
        fc.constant('tensors' as const),
        fc.array(fc.record({ prefix: fc.nat(2), id: fc.nat(2), kind: fc.nat(1) }), { maxLength: 4 }),
      ),
      fc.tuple(fc.constant('alignment' as const), number),
      fc.tuple(fc.constant('rank' as const), number),
    )
    const outcomes = new Map<unknown, number>()
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 3 }), async (changes) => {
        const said = Object.assign(plain(), Object.fromEntries(changes)) as Spoken
        const content = fileOf([listed(payloadOf(said), Math.max(0, said.rank))])
        const outcome = await load(content).then(
          ({ ranks }) => {
            for (const { tensors, segments } of ranks) {
              for (let i = 0; i < tensors.count; i++) {
                const { segment, offset, bytes } = tensorAt(tensors, i)
                expect(offset >= 0 && Number.isSafeInteger(offset + bytes)).toBe(true)
                expect(offset + bytes).toBeLessThanOrEqual(segments[segment]!.bytes)
              }
            }
            return 'taken'
          },
          (error: unknown) => {
            if (!CkptError.is(error, 'METAS_MALFORMED')) throw error
            return error.fields.field ?? 'a file'
          },
        )
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
      }),
      { numRuns: 1000 },
    )
    // Neither all accepted, nor all refused at one place.
    expect(outcomes.get('taken')).toBeGreaterThan(10)
    expect(outcomes.size).toBeGreaterThan(6)
  })
})
