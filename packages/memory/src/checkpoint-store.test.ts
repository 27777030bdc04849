import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, symlink, truncate, unlink, writeFile as writeBytes } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CkptError, tensorAt, type Host } from '@ckpt/contract'
import { headerFor } from '@ckpt/safetensors'
import { createHost } from '@ckpt/transport'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { CheckpointStore } from './checkpoint-store.ts'
import { bytesOf, contents, failure, file, fromDisk, hostWith, MIB } from './fixtures.ts'
import type { NamedTensorInput } from './source.ts'

let host: Host
let directory: string
let shm: string
let store: CheckpointStore

beforeAll(async () => {
  host = createHost()
  directory = await mkdtemp(join(tmpdir(), 'ckpt-memory-'))
  shm = await mkdtemp('/dev/shm/ckpt-memory-')
})
afterAll(async () => {
  await rm(directory, { recursive: true, force: true })
  await rm(shm, { recursive: true, force: true })
})
beforeEach(() => {
  store = new CheckpointStore(host)
})
afterEach(async () => {
  await store.close()
})

describe('register from files', () => {
  it('holds exactly the bytes of the files, in several segments', async () => {
    const paths = [
      await file(directory, 'a', [256, 4096, 0, 16, 1, 3, 5000, 70_000]),
      await file(directory, 'b', []),
      await file(directory, 'c', [3 * MIB, 17, 2 * MIB + 5, 0]),
    ]
    store = new CheckpointStore(host, { segmentBytes: 2 * MIB })
    const progress: [number, number][] = []
    await store.register('x', { files: paths }, { onProgress: (...done) => progress.push(done) })
    expect(contents(store, 'x')).toEqual(await fromDisk(paths))
    const { segments, tensors } = store.metas('x')
    expect(segments.length).toBeGreaterThan(1)
    expect(tensors.count).toBe(12)
    expect(segments.every(({ kind }) => kind === 'anonymous')).toBe(true)
    const total = tensors.bytes.reduce((sum, bytes) => sum + bytes, 0)
    expect(progress.at(-1)).toEqual([total, total])
    expect(progress.every(([done], i) => done >= (progress[i - 1]?.[0] ?? 0) && done <= total)).toBe(true)
  })

  it('finds the files of a directory by its index', async () => {
    const folder = await mkdtemp(join(directory, 'sharded-'))
    const paths = [await file(folder, 'model-1', [100, 200]), await file(folder, 'model-2', [300])]
    await file(folder, 'other', [5])
    const weightMap = {
      'model-1.0': 'model-1.safetensors',
      'model-1.1': 'model-1.safetensors',
      'model-2.0': 'model-2.safetensors',
    }
    await writeBytes(join(folder, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: weightMap }))
    await store.register('x', { directory: folder })
    expect(contents(store, 'x')).toEqual(await fromDisk(paths))
  })

  it('shares a directory out over ranks: together they hold everything once', async () => {
    const folder = await mkdtemp(join(directory, 'shares-'))
    const paths = [await file(folder, 'a', [1000, 20, 3000, 5]), await file(folder, 'b', [700, 7000, 64])]
    const stores = Array.from({ length: 3 }, () => new CheckpointStore(host))
    await Promise.all(stores.map((rank, index) => rank.register('x', { directory: folder }, { share: { index, count: 3 } })))
    const parts = stores.map((rank) => contents(rank, 'x'))
    const union = new Map(parts.flatMap((part) => [...part]))
    expect(union.size).toBe(parts.reduce((sum, part) => sum + part.size, 0))
    expect(union).toEqual(await fromDisk(paths))
    await Promise.all(stores.map((rank) => rank.close()))
  })

  it('registers nothing, and less ranks than tensors, without complaint', async () => {
    await store.register('none', { files: [] })
    expect(store.metas('none').tensors.count).toBe(0)
    expect((await store.computeDigests('none')).length).toBe(0)
    const empty = await file(directory, 'zero', [0, 0])
    await store.register('zero', { files: [empty] })
    expect([...contents(store, 'zero').values()]).toEqual(['', ''])
    await store.register('part', { files: [empty] }, { share: { index: 3, count: 4 } })
    expect(store.metas('part')).toMatchObject({ segments: [], tensors: { count: 0 } })
  })

  it('takes memory for what others bring, and registers it or gives it back', async () => {
    const bytes = Buffer.from('0123456789abcdef')
    const tensor = { name: 't', dtype: 'U8', shape: [16], bytes: 16, segment: 1, offset: 8 } as const
    {
      using reserved = await store.reserve('x', [100, 100])
      expect(await failure(() => store.reserve('x', [1]))).toMatchObject({ code: 'CHECKPOINT_EXISTS' })
      expect(() => store.unregister('x')).toThrow(/being registered/)
      bytes.copy(reserved.segments[1]!.view(8, 16))
      reserved.register([tensor], BigUint64Array.of(7n))
    }
    expect(contents(store, 'x')).toEqual(new Map([['t', bytes.toString('base64')]]))
    expect(await store.computeDigests('x')).toEqual(BigUint64Array.of(7n))
    expect(store.metas('x').segments.map((segment) => segment.bytes)).toEqual([100, 100])
    expect(await failure(() => store.reserve('x', [1]))).toMatchObject({ code: 'CHECKPOINT_EXISTS' })
    store.unregister('x')
    const given = await store.reserve('x', [100])
    given.release()
    given.register([tensor])
    expect(store.has('x')).toBe(false)
    expect(await failure(() => store.reserve('x', [2 ** 50]))).toMatchObject({ code: 'OUT_OF_MEMORY' })
    await store.register('x', { files: [] })
  })

  it('changes nothing when a file is missing, malformed, cut short or named twice', async () => {
    const good = await file(directory, 'good', [MIB, 100])
    await store.register('before', { files: [good] })
    const cut = await file(directory, 'cut', [MIB])
    await truncate(cut, MIB / 2)
    const twin = await file(directory, 'twin', [10])
    const other = join(directory, 'twin-2.safetensors')
    await writeBytes(other, await readFile(twin))
    const cases: [string[], string, object][] = [
      [
        [good, join(directory, 'none.safetensors')],
        'CHECKPOINT_UNREADABLE',
        { file: join(directory, 'none.safetensors'), errno: 2 },
      ],
      [[good, cut, twin], 'CHECKPOINT_MALFORMED', { file: cut, field: 'data_offsets' }],
      [[twin, good, other], 'CHECKPOINT_MALFORMED', { file: other, tensor: 'twin.0' }],
      [[good, good], 'CHECKPOINT_MALFORMED', { file: good }],
    ]
    for (const [files, code, fields] of cases) {
      for (const pool of ['private', 'shared'] as const) {
        const error = await failure(() => store.register('x', { files }, { pool }))
        expect(error.code).toBe(code)
        expect(error.fields).toMatchObject(fields)
      }
    }
    expect(store.names).toEqual(['before'])
    expect(store.poolStats.usedBlocks).toBe(0)
    expect(contents(store, 'before')).toEqual(await fromDisk([good]))
    await store.register('x', { files: [good] })
  })

  it('gives everything back when a file shrinks between its header and its data', async () => {
    const paths = [
      await file(directory, 's1', [MIB]),
      await file(directory, 's2', [MIB, 3]),
      await file(directory, 's3', [MIB]),
    ]
    store = new CheckpointStore(hostWith(host, () => truncate(paths[1]!, 5000)))
    const error = await failure(() => store.register('x', { files: paths }, { pool: 'shared' }))
    expect([error.code, error.fields.file]).toEqual(['CHECKPOINT_CHANGED', paths[1]])
    expect(store.names).toEqual([])
    expect(store.poolStats).toMatchObject({ blocks: 1, usedBlocks: 0 })
  })

  it('stops when it is told to, and leaves nothing', async () => {
    const path = await file(directory, 'stop', [MIB])
    const controller = new AbortController()
    store = new CheckpointStore(hostWith(host, async () => controller.abort()))
    const error = await failure(() => store.register('x', { files: [path] }, { signal: controller.signal, pool: 'shared' }))
    expect(error.code).toBe('ABORTED')
    expect([store.names, store.poolStats.usedBlocks]).toEqual([[], 0])
    expect((await failure(() => store.register('x', { files: [path] }, { signal: controller.signal }))).code).toBe('ABORTED')
  })

  it('lets exactly one of several registrations of a name win, and different names run beside each other', async () => {
    const paths = await Promise.all(['p', 'q', 'r'].map((name) => file(directory, name, [MIB, 50])))
    const results = await Promise.allSettled(paths.map((path) => store.register('same', { files: [path] })))
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected'])
    for (const result of results) {
      if (result.status === 'rejected') expect(CkptError.is(result.reason, 'CHECKPOINT_EXISTS')).toBe(true)
    }
    await Promise.all(
      paths.map((path, i) => store.register(`n${i}`, { files: [path] }, { pool: i === 0 ? 'private' : 'shared' })),
    )
    for (const [i, path] of paths.entries()) expect(contents(store, `n${i}`)).toEqual(await fromDisk([path]))
    expect((await failure(() => store.register('n1', { files: [] }))).fields.checkpoint).toBe('n1')
  })

  it('refuses options that make no sense', async () => {
    const path = await file(directory, 'o', [10])
    const files = [path]
    for (const [source, options, field] of [
      [{ files }, { removeFiles: true }, 'removeFiles'],
      [{ files }, { inPlace: true, pool: 'shared' }, 'pool'],
      [{ files }, { inPlace: true, removeFiles: true, share: { index: 0, count: 2 } }, 'removeFiles'],
      [{ files }, { share: { index: 2, count: 2 } }, 'share'],
      [{ tensors: {} }, { share: { index: 0, count: 2 } }, 'share'],
      [{ files }, { inPlace: true }, 'inPlace'],
    ] as const) {
      const error = await failure(() => store.register('x', source, options))
      expect([error.code, error.fields.field]).toEqual(['INVALID_ARGUMENT', field])
    }
    expect(() => new CheckpointStore(host, { segmentBytes: 0 })).toThrow(CkptError)
    expect(existsSync(path)).toBe(true)
  })
})

describe('register from tensors', () => {
  it('copies buffers, typed arrays, host memory and shared memory', async () => {
    const memory = await host.allocate({ bytes: 10_000 })
    memory.view(0, 10_000).set(bytesOf(5, 10_000))
    const name = `ckpt-test-${process.pid}-tensors`
    const shared = await host.createShared(name, { bytes: 8192 })
    shared.view(0, 8192).set(bytesOf(6, 8192))
    const large = bytesOf(7, 40 * MIB + 3)
    const floats = Float32Array.from({ length: 6 }, (_, i) => i / 3)
    const tensors: NamedTensorInput[] = [
      { name: 'buffer', dtype: 'U8', shape: [large.length], data: large },
      { name: 'floats', dtype: 'F32', shape: [2, 3], data: floats },
      { name: 'scalar', dtype: 'I64', shape: [], data: BigInt64Array.of(-5n).buffer },
      { name: 'view', dtype: 'BF16', shape: [4], data: new DataView(floats.buffer, 4, 8) },
      { name: 'memory', dtype: 'U8', shape: [777], data: { memory, offset: 123 } },
      { name: 'shared', dtype: 'F16', shape: [100], data: { shared: name, offset: 64 } },
      { name: 'shared2', dtype: 'F4', shape: [4], data: { shared: name } },
      { name: 'empty', dtype: 'F32', shape: [0], data: { memory } },
    ]
    const progress: number[] = []
    await store.register('x', { tensors }, { pool: 'shared', onProgress: (done) => progress.push(done) })
    memory.close()
    shared.unlink()
    shared.close()
    expect(contents(store, 'x')).toEqual(
      new Map([
        ['buffer', large.toString('base64')],
        ['floats', Buffer.from(floats.buffer).toString('base64')],
        ['scalar', Buffer.from(BigInt64Array.of(-5n).buffer).toString('base64')],
        ['view', Buffer.from(floats.buffer, 4, 8).toString('base64')],
        ['memory', bytesOf(5, 10_000).toString('base64', 123, 900)],
        ['shared', bytesOf(6, 8192).toString('base64', 64, 264)],
        ['shared2', bytesOf(6, 8192).toString('base64', 0, 2)],
        ['empty', ''],
      ]),
    )
    const { tensors: table } = store.metas('x')
    expect(tensorAt(table, 1)).toMatchObject({ name: 'floats', dtype: 'F32', shape: [2, 3], bytes: 24 })
    expect(progress.length).toBeGreaterThan(1)

    await store.register('record', { tensors: { a: { dtype: 'U8', shape: [2], data: Uint8Array.of(1, 2) } } })
    expect(contents(store, 'record')).toEqual(new Map([['a', 'AQI=']]))
  })

  it('uses shared memory where it is, and removes its name only when asked', async () => {
    for (const removeFiles of [false, true]) {
      const name = `ckpt-test-${process.pid}-place`
      const shared = await host.createShared(name, { bytes: 4096 })
      const tensors = { t: { dtype: 'U8' as const, shape: [16], data: { shared: name, offset: 32 } } }
      await store.register('x', { tensors }, { inPlace: true, removeFiles })
      shared.view(32, 16).fill(9)
      expect(contents(store, 'x').get('t')).toBe(Buffer.alloc(16, 9).toString('base64'))
      expect(store.metas('x').segments).toEqual([{ bytes: 4096, kind: 'file' }])
      expect(existsSync(`/dev/shm/${name}`)).toBe(!removeFiles)
      store.unregister('x')
      expect(existsSync(`/dev/shm/${name}`)).toBe(!removeFiles)
      if (!removeFiles) shared.unlink()
      shared.close()
    }
  })

  it('refuses bad tensors by name', async () => {
    const memory = await host.allocate({ bytes: 100 })
    const t = (name: string, data: NamedTensorInput['data'], shape = [4]): NamedTensorInput => ({
      name,
      dtype: 'U8',
      shape,
      data,
    })
    const good = t('good', Buffer.alloc(4))
    for (const [bad, field, inPlace] of [
      [t('bad', Buffer.alloc(5)), 'data', false],
      [t('good', Buffer.alloc(4)), 'name', false],
      [t('bad', Buffer.alloc(4), [-4]), 'shape', false],
      [t('bad', { memory, offset: 97 }), 'data', false],
      [t('bad', { memory, offset: -1 }), 'offset', false],
      [t('bad', { shared: 'ckpt-not-there' }), 'name', false],
      [t('bad', { shared: '../etc/passwd' }), 'shared', true],
      [t('bad', { memory }), 'inPlace', true],
      [t('bad', { fill: true }), 'fill', false],
      [t('bad', { fill: true }), 'inPlace', true],
    ] as const) {
      const error = await failure(() =>
        store.register('x', { tensors: inPlace ? [bad] : [good, bad] }, { inPlace, pool: inPlace ? 'private' : 'shared' }),
      )
      expect([error.code, error.fields.field], error.message).toEqual(['INVALID_ARGUMENT', field])
    }
    expect(store.names).toEqual([])
    expect(store.poolStats.usedBlocks).toBe(0)
    memory.close()
  })
})

describe('files in place', () => {
  const mapped = async (path: string) => (await readFile('/proc/self/maps', 'utf8')).includes(path)

  it('maps files in /dev/shm without copying, through links too, and lets them be', async () => {
    const paths = [await file(shm, 'a', [100, 0, 5000]), await file(shm, 'b', [77])]
    const link = join(directory, 'link.safetensors')
    await symlink(paths[1]!, link)
    await store.register('x', { files: [paths[0]!, link] }, { inPlace: true })
    expect(contents(store, 'x')).toEqual(await fromDisk(paths))
    expect(store.metas('x').segments.map(({ kind }) => kind)).toEqual(['file', 'file'])
    expect(await mapped(paths[0]!)).toBe(true)
    store.unregister('x')
    expect(await mapped(paths[0]!)).toBe(false)
    expect(paths.every((path) => existsSync(path))).toBe(true)
  })

  it('removes them when asked, but not when the registration fails', async () => {
    const paths = [await file(shm, 'c', [100]), await file(shm, 'd', [77])]
    const expected = await fromDisk(paths)
    const bad = await file(directory, 'on-disk', [5])
    const options = { inPlace: true, removeFiles: true }
    const error = await failure(() => store.register('x', { files: [...paths, bad] }, options))
    expect([error.code, error.fields.file]).toEqual(['INVALID_ARGUMENT', bad])
    expect([...paths, bad].every((path) => existsSync(path))).toBe(true)
    expect(await mapped(paths[0]!)).toBe(false)

    await store.register('x', { files: paths }, options)
    expect(paths.some((path) => existsSync(path))).toBe(false)
    expect(contents(store, 'x')).toEqual(expected)
  })

  it('takes a share of them', async () => {
    const paths = [await file(shm, 'e', [500, 500]), await file(shm, 'f', [1000])]
    await store.register('x', { files: paths }, { inPlace: true, share: { index: 1, count: 2 } })
    expect(contents(store, 'x')).toEqual(await fromDisk([paths[1]!]))
    await unlink(paths[0]!)
  })
})

describe('memory', () => {
  it('is refused by the sum of what a checkpoint needs, before any of it is read', async () => {
    const path = join(directory, 'far-too-large.safetensors')
    const gibibyte = 2 ** 30
    const tensors = Array.from({ length: 4096 }, (_, i) => ({ name: `t.${i}`, dtype: 'U8' as const, shape: [gibibyte] }))
    const { header, fileBytes } = headerFor(tensors)
    await writeBytes(path, header)
    await truncate(path, fileBytes)
    store = new CheckpointStore(host, { segmentBytes: gibibyte, lock: false })
    const error = await failure(() => store.register('a', { files: [path] }))
    expect(error).toMatchObject({ code: 'OUT_OF_MEMORY' })
    expect(error.message).toContain(`${4096 * gibibyte} bytes`)
    expect(store.has('a')).toBe(false)
  })
})
