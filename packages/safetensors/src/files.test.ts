import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, symlink, truncate, writeFile as writeBytes } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { CkptError } from '@ckpt/contract'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { readHeader } from './read.ts'
import { readHeaders, readIndex } from './shards.ts'
import { writeFile, type WritableTensor } from './write.ts'

let directory: string
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ckpt-safetensors-'))
})
afterEach(async () => {
  await rm(directory, { recursive: true, force: true })
})

const at = (name: string) => join(directory, name)
const u8 = (name: string, ...bytes: number[]): WritableTensor => ({
  name,
  dtype: 'U8',
  shape: [bytes.length],
  data: Uint8Array.from(bytes),
})

async function failure(promise: Promise<unknown>): Promise<CkptError> {
  const error: unknown = await promise.then(
    () => new Error('nothing was thrown'),
    (reason: unknown) => reason,
  )
  if (CkptError.is(error)) return error
  throw error
}

describe('writeFile and readHeader', () => {
  it('writes what it reads, in the reference order, streamed or not', async () => {
    const path = at('a.safetensors')
    await writeFile(
      path,
      [
        u8('b', 1, 2, 3),
        { name: 'wide', dtype: 'F64', shape: [], data: Buffer.alloc(8, 7) },
        { name: 'h2', dtype: 'F16', shape: [0, 4], data: new Uint8Array() },
        {
          name: 'h1',
          dtype: 'BF16',
          shape: [2],
          data: async function* () {
            yield Buffer.from([9])
            await Promise.resolve()
            yield Buffer.from([8, 7, 6])
          },
        },
      ],
      { metadata: { format: 'pt' } },
    )
    const header = await readHeader(path)
    expect(header.tensors.map((t) => t.name)).toEqual(['wide', 'h1', 'h2', 'b'])
    expect(header.metadata).toEqual({ format: 'pt' })
    expect(header.dataStart % 8).toBe(0)
    const bytes = await readFile(path)
    expect(bytes.length).toBe(header.fileBytes)
    expect([...bytes.subarray(header.dataStart)]).toEqual([7, 7, 7, 7, 7, 7, 7, 7, 9, 8, 7, 6, 1, 2, 3])
  })

  it('leaves nothing behind when the data has the wrong size, and keeps an older file', async () => {
    await writeFile(at('a.safetensors'), [u8('t', 1)])
    const before = await readFile(at('a.safetensors'))
    for (const size of [3, 5]) {
      const bad: WritableTensor = { name: 't', dtype: 'U8', shape: [4], data: () => [new Uint8Array(size)] }
      const error = await failure(writeFile(at('a.safetensors'), [bad]))
      expect([error.code, error.fields]).toEqual(['INVALID_ARGUMENT', { field: 'data', tensor: 't' }])
    }
    expect(await readdir(directory)).toEqual(['a.safetensors'])
    expect(await readFile(at('a.safetensors'))).toEqual(before)
  })

  it('refuses tensors that no header can hold', async () => {
    const cases: [WritableTensor[], string][] = [
      [[u8('t', 1), u8('t', 2)], 'name'],
      [[u8('__metadata__', 1)], 'name'],
      [[u8('\ud800', 1)], 'name'],
      [[{ ...u8('t', 1), shape: [-1] }], 'shape'],
      [[{ ...u8('t', 1), shape: [1.5] }], 'shape'],
      [[{ ...u8('t', 1), dtype: 'F4', shape: [1] }], 'shape'],
    ]
    for (const [tensors, field] of cases) {
      const error = await failure(writeFile(at('x.safetensors'), tensors))
      expect([error.code, error.fields['field']]).toEqual(['INVALID_ARGUMENT', field])
    }
    expect(await readdir(directory)).toEqual([])
  })

  it('names a file that is missing, a directory, cut or too long', async () => {
    const missing = await failure(readHeader(at('none.safetensors')))
    expect([missing.code, missing.fields]).toEqual(['CHECKPOINT_UNREADABLE', { file: at('none.safetensors'), errno: 2 }])
    expect((await failure(readHeader(directory))).code).toBe('CHECKPOINT_UNREADABLE')
    const unwritable = await failure(writeFile(at('no/such/dir.safetensors'), [u8('t', 1)]))
    expect([unwritable.code, unwritable.fields.errno]).toEqual(['CHECKPOINT_UNREADABLE', 2])

    const path = at('a.safetensors')
    await writeFile(path, [u8('t', 1, 2, 3, 4)])
    const { fileBytes } = await readHeader(path)
    await appendFile(path, 'x')
    expect((await failure(readHeader(path))).message).toMatch(/1 trailing bytes/)
    for (let size = fileBytes - 1; size >= 0; size--) {
      await truncate(path, size)
      const error = await failure(readHeader(path))
      expect([error.code, error.fields.file]).toEqual(['CHECKPOINT_MALFORMED', path])
    }
  })
})

describe('readIndex', () => {
  const index = (weightMap: unknown, extra = {}) =>
    writeBytes(
      at('model.safetensors.index.json'),
      JSON.stringify({ metadata: { total_size: 3 }, weight_map: weightMap, ...extra }),
    )
  const one = 'model-00001-of-00002.safetensors'
  const two = 'model-00002-of-00002.safetensors'
  beforeEach(async () => {
    await writeFile(at(one), [u8('a', 1), u8('b', 2)])
    await writeFile(at(two), [u8('c', 3)])
  })

  it('finds a sharded checkpoint by directory or index, and skips files the index does not name', async () => {
    await index({ c: two, a: one, b: one })
    await writeFile(at('consolidated.safetensors'), [u8('a', 1)])
    for (const path of [directory, at('model.safetensors.index.json')]) {
      const found = await readIndex(path)
      expect(found.files).toEqual([at(one), at(two)])
      expect(found.index).toBe(at('model.safetensors.index.json'))
      expect(found.headers.map((header) => header.tensors.length)).toEqual([2, 1])
    }
  })

  it('finds model.safetensors alone, one named file, and all files of a directory', async () => {
    expect((await readIndex(directory)).files).toEqual([at(one), at(two)])
    expect((await readIndex(at(two))).files).toEqual([at(two)])
    await symlink(at(two), at('model.safetensors'))
    expect((await readIndex(directory)).files).toEqual([at('model.safetensors')])
    await mkdir(at('empty'))
    expect((await failure(readIndex(at('empty')))).fields).toEqual({ file: at('empty') })
    expect((await failure(readIndex(at('nowhere')))).code).toBe('CHECKPOINT_UNREADABLE')
  })

  it('rejects a tensor that its shard lacks, one in two shards and a shard that is missing', async () => {
    await index({ a: one, b: one, c: two, d: two })
    let error = await failure(readIndex(directory))
    expect([error.code, error.fields.tensor, error.fields.field]).toEqual(['CHECKPOINT_MALFORMED', 'd', 'weight_map'])
    expect(error.message).toMatch(/no shard holds it/)

    await index({ a: one, b: two, c: two })
    error = await failure(readIndex(directory))
    expect([error.fields.tensor, error.fields.file]).toEqual(['b', at('model.safetensors.index.json')])
    expect(error.message).toContain(`${one} holds it`)

    await index({ a: one, b: one, c: 'model-00003.safetensors' })
    error = await failure(readIndex(directory))
    expect([error.code, error.fields.file, error.fields.errno]).toEqual([
      'CHECKPOINT_UNREADABLE',
      at('model-00003.safetensors'),
      2,
    ])
    expect(error.message).toContain('index.json names it')

    await index({ a: one, b: one, c: two })
    await writeFile(at(two), [u8('c', 3), u8('a', 1)])
    error = await failure(readIndex(directory))
    expect([error.code, error.fields.tensor, error.fields.file]).toEqual(['CHECKPOINT_MALFORMED', 'a', at(two)])
    expect(error.message).toContain(one)
    error = await failure(readHeaders([at(one), at(two)]))
    expect(error.fields.tensor).toBe('a')
  })

  it('rejects shard names that lead elsewhere', async () => {
    for (const shard of [
      '../x.safetensors',
      '/etc/x.safetensors',
      'a/../b.safetensors',
      'a//b.safetensors',
      './b.safetensors',
      'a/../../b.safetensors',
      '..\\x.safetensors',
      'x\0.safetensors',
      '..',
      'a.bin',
      '',
    ]) {
      await index({ a: shard })
      const error = await failure(readIndex(directory))
      expect([error.code, error.fields.tensor, error.fields.field]).toEqual(['CHECKPOINT_MALFORMED', 'a', 'weight_map'])
    }
  })

  it('rejects indexes that are not indexes', async () => {
    const bad = [
      '',
      '[]',
      '{}',
      '{"weight_map":[]}',
      '{"weight_map":{}}',
      '{"weight_map":{"a":1}}',
      '{"weight_map":{"a":"x.safetensors"',
      '\xff',
    ]
    bad.push(`{"weight_map":{"a":"${one}","a":"${two}"}}`, `{"weight_map":{"a":"${one}"},"weight_map":{"a":"${one}"}}`)
    for (const text of bad) {
      await writeBytes(at('model.safetensors.index.json'), Buffer.from(text, 'latin1'))
      expect((await failure(readIndex(directory))).code, text).toBe('CHECKPOINT_MALFORMED')
    }
  })
})

/** A Python that can import safetensors and numpy, or undefined. */
const python = [
  process.env['CKPT_PYTHON'],
  fileURLToPath(new URL('../../../.venv/bin/python', import.meta.url)),
  'python3',
].find((candidate) => {
  if (candidate === undefined || (candidate.includes('/') && !existsSync(candidate))) return false
  try {
    execFileSync(candidate, ['-c', 'import safetensors, numpy'], { stdio: 'ignore', timeout: 60_000 })
    return true
  } catch {
    return false
  }
})

describe('the safetensors package of Python', () => {
  it('reads and writes the same bytes', async ({ skip }) => {
    if (python === undefined) skip('no Python with safetensors and numpy found (set CKPT_PYTHON)')
    const write = `
import numpy, sys
from safetensors.numpy import save_file
save_file({
    "b": numpy.arange(6, dtype=numpy.float32).reshape(2, 3), "a": numpy.arange(4, dtype=numpy.float32),
    "z": numpy.array(7, dtype=numpy.int64), "\\U0001f600": numpy.zeros(1, dtype=numpy.uint8), "\\uffff": numpy.ones(1, dtype=numpy.uint8),
    "h": numpy.arange(3, dtype=numpy.float16), "none": numpy.zeros((0, 5), dtype=numpy.float64), 'quo"te\\n': numpy.zeros(2, dtype=bool),
    "u16": numpy.arange(2, dtype=numpy.uint16), "i8": numpy.arange(5, dtype=numpy.int8), "c64": numpy.ones(2, dtype=numpy.complex64),
}, sys.argv[1], {"format": "np"})`
    execFileSync(python!, ['-c', write, at('theirs.safetensors')], { timeout: 60_000 })
    const bytes = await readFile(at('theirs.safetensors'))
    const header = await readHeader(at('theirs.safetensors'))
    expect(header.tensors).toHaveLength(11)
    const tensors = header.tensors.map((t) => ({
      ...t,
      data: bytes.subarray(header.dataStart + t.begin, header.dataStart + t.end),
    }))
    await writeFile(at('ours.safetensors'), tensors.reverse(), { metadata: header.metadata })
    expect((await readFile(at('ours.safetensors'))).equals(bytes)).toBe(true)

    const read = `
import hashlib, json, sys
from safetensors import safe_open
with safe_open(sys.argv[1], "np") as f:
    print(json.dumps({k: [list(f.get_tensor(k).shape), hashlib.sha256(f.get_tensor(k).tobytes()).hexdigest()] for k in f.keys()}))`
    const seen = JSON.parse(
      execFileSync(python!, ['-c', read, at('ours.safetensors')], { timeout: 60_000 }).toString(),
    ) as unknown
    expect(seen).toEqual(
      Object.fromEntries(tensors.map((t) => [t.name, [t.shape, createHash('sha256').update(t.data).digest('hex')]])),
    )
  })
})

describe('what is no regular file', () => {
  it('is refused at once, also a pipe that nobody writes to', async () => {
    execFileSync('mkfifo', [at('pipe.safetensors'), at('model.safetensors.index.json')])
    await mkdir(at('directory.safetensors'))
    for (const name of ['pipe.safetensors', 'directory.safetensors']) {
      const error = await failure(readHeader(at(name)))
      expect(error).toMatchObject({ code: 'CHECKPOINT_UNREADABLE', fields: { file: at(name) } })
      expect(error.message).toContain('not a regular file')
    }
    expect(await failure(readIndex(directory))).toMatchObject({
      code: 'CHECKPOINT_UNREADABLE',
      fields: { file: at('model.safetensors.index.json') },
    })
  })
})
