import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { CkptError, type Host } from '@ckpt/contract'
import { createHost } from '@ckpt/transport'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { CheckpointStore } from './checkpoint-store.ts'
import type { Fill, Place } from './source.ts'
import { bytesOf, contents, failure, file, fromDisk, hostWith, MIB } from './fixtures.ts'

let host: Host
let directory: string
let store: CheckpointStore

beforeAll(async () => {
  host = createHost()
  directory = await mkdtemp(join(tmpdir(), 'ckpt-memory-'))
})
afterAll(async () => {
  await rm(directory, { recursive: true, force: true })
})
beforeEach(() => {
  store = new CheckpointStore(host)
})
afterEach(async () => {
  await store.close()
})

describe('tensors that the caller writes', () => {
  const bytes = [3, 0, 2 * MIB]
  const tensors = bytes.map((size, i) => ({ name: `${i}`, dtype: 'U8' as const, shape: [size], data: { fill: true } as const }))

  it('have addresses in memory that stays until they are written, even if the registration is aborted', async () => {
    for (const pool of ['private', 'shared'] as const) {
      const abort = new AbortController()
      const places: Place[] = []
      let write = (): void => undefined
      const written = new Promise<void>((resolve) => (write = resolve))
      const fill: Fill = (given) => {
        places.push(...given)
        return written
      }
      const registering = failure(() => store.register('x', { tensors, fill }, { pool, signal: abort.signal }))
      await vi.waitFor(() => expect(places).toHaveLength(bytes.length))
      abort.abort()
      await setImmediate()
      expect(places.map((place) => [place.bytes, place.memory.address! > 0])).toEqual(bytes.map((size) => [size, true]))
      places[2]!.memory.view(places[2]!.offset, 1).fill(1)
      write()
      expect((await registering).code).toBe('ABORTED')
      if (pool === 'private') expect(places.map(({ memory }) => memory.address)).toEqual([0, 0, 0])
    }
  })

  it('are registered with what was written, beside others', async () => {
    const fill: Fill = (places) => {
      for (const [i, { memory, offset, bytes: size }] of places.entries()) memory.view(offset, size).fill(i + 1)
      return Promise.resolve()
    }
    const other = { name: 'other', dtype: 'U8' as const, shape: [2], data: Uint8Array.of(8, 9) }
    await store.register('x', { tensors: [other, ...tensors], fill })
    const found = contents(store, 'x')
    expect(found.get('other')).toBe(Buffer.of(8, 9).toString('base64'))
    for (const [i, size] of bytes.entries()) expect(found.get(`${i}`)).toBe(Buffer.alloc(size, i + 1).toString('base64'))
  })
})

describe('leases', () => {
  it('keep memory alive: unregistering fails, or with force waits for the last one', async () => {
    const path = await file(directory, 'lease', [1000])
    await store.register('x', { files: [path] }, { pool: 'shared' })
    const first = store.lease('x')
    const second = store.lease('x')
    const error = await failure(() => store.unregister('x'))
    expect([error.code, error.retryable, error.fields['leases']]).toEqual(['CHECKPOINT_IN_USE', true, 2])
    expect(error.message).toContain('2 times')

    store.unregister('x', { force: true })
    expect(store.names).toEqual([])
    await store.register('x', { files: [path] }, { pool: 'shared' })
    expect(store.poolStats).toMatchObject({ blocks: 2, usedBlocks: 2 })
    first.release()
    first.release()
    expect(store.poolStats.usedBlocks).toBe(2)
    expect(first.segments[0]!.view(0, 4).length).toBe(4)
    second[Symbol.dispose]()
    expect(store.poolStats).toMatchObject({ blocks: 2, usedBlocks: 1 })
    store.unregister('x')
    for (const call of [
      () => store.lease('x'),
      () => store.metas('x'),
      () => store.unregister('x'),
      () => store.computeDigests('x'),
    ]) {
      expect((await failure(call)).code).toBe('CHECKPOINT_UNKNOWN')
    }
  })

  it('outlive the store', async () => {
    const path = await file(directory, 'outlive', [1000])
    await store.register('x', { files: [path] })
    const lease = store.lease('x')
    await store.close()
    const view = lease.segments[0]!.view(0, 1000)
    expect(view.length).toBe(1000)
    lease.release()
    expect(view.length).toBe(0)
    expect((await failure(() => store.register('y', { files: [] }))).code).toBe('INVALID_STATE')
    await store.close()
  })

  it('are not given while a checkpoint is being registered, nor can it be unregistered; closing stops it', async () => {
    const path = await file(directory, 'early', [1000])
    let proceed: () => void = () => {}
    let entered: () => void = () => {}
    const inside = new Promise<void>((resolve) => (entered = resolve))
    const gate = new Promise<void>((resolve) => (proceed = resolve))
    store = new CheckpointStore(
      hostWith(host, () => {
        entered()
        return gate
      }),
    )
    const registration = failure(() => store.register('x', { files: [path] }))
    await inside
    expect((await failure(() => store.lease('x'))).message).toContain('still being registered')
    expect((await failure(() => store.unregister('x', { force: true }))).code).toBe('CHECKPOINT_IN_USE')
    const closed = store.close()
    proceed()
    await closed
    expect((await registration).code).toBe('ABORTED')
    expect(store.names).toEqual([])
  })
})

describe('the shared pool', () => {
  it('takes the next checkpoint without allocating, and grows when it must', async () => {
    const step = async (name: string, sizes: number[]) => {
      const path = await file(directory, name, sizes)
      await store.register(name, { files: [path] }, { pool: 'shared' })
      expect(contents(store, name)).toEqual(await fromDisk([path]))
      store.unregister(name)
    }
    store = new CheckpointStore(host, { segmentBytes: 3 * MIB })
    await step('one', [3 * MIB, 3 * MIB, 2 * MIB])
    expect(store.poolStats).toMatchObject({ blocks: 3, usedBlocks: 0, allocations: 3 })
    await step('two', [3 * MIB, 3 * MIB, 2 * MIB])
    await step('three', [3 * MIB - 5, 2 * MIB, 2 * MIB])
    expect(store.poolStats.allocations).toBe(3)
    await step('large', [9 * MIB])
    // The smaller blocks left room for it.
    expect(store.poolStats).toMatchObject({ blocks: 1, bytes: 10 * MIB, allocations: 4 })
    await step('small', [MIB])
    expect(store.poolStats).toMatchObject({ blocks: 2, bytes: 12 * MIB, allocations: 5 })
  })

  it('uses an oversized block when no other memory is to be had', async () => {
    const path = await file(directory, 'big', [9 * MIB])
    const small = await file(directory, 'small-one', [MIB])
    let full = false
    const limited = hostWith(host, async () => {
      if (full) throw new CkptError('OUT_OF_MEMORY', 'no more')
    })
    store = new CheckpointStore(limited)
    await store.register('big', { files: [path] }, { pool: 'shared' })
    store.unregister('big')
    full = true
    await store.register('small', { files: [small] }, { pool: 'shared' })
    expect(contents(store, 'small')).toEqual(await fromDisk([small]))
    const error = await failure(() => store.register('other', { files: [small] }, { pool: 'shared' }))
    expect(error.code).toBe('OUT_OF_MEMORY')
    expect(store.names).toEqual(['small'])
  })

  it('is released when nobody uses it, or by force as leases end', async () => {
    const path = await file(directory, 'release', [1000])
    const files = [path]
    await store.register('x', { files }, { pool: 'shared' })
    await store.register('own', { files })
    const error = await failure(() => store.releasePool())
    expect([error.code, error.fields['checkpoints']]).toEqual(['CHECKPOINT_IN_USE', ['x']])
    const lease = store.lease('x')
    const view = lease.segments[0]!.view(0, 10)
    store.releasePool({ force: true })
    expect(store.names).toEqual(['own'])
    expect(store.poolStats).toMatchObject({ blocks: 0, bytes: 0 })
    expect(view.length).toBe(10)
    lease.release()
    expect(view.length).toBe(0)
    expect(store.poolStats.blocks).toBe(0)

    await store.register('x', { files }, { pool: 'shared' })
    store.unregister('x')
    expect(store.poolStats.blocks).toBe(1)
    store.releasePool()
    expect(store.poolStats.blocks).toBe(0)
  })

  it('may be released by force while a registration fills it: that memory goes when the checkpoint does', async () => {
    const path = await file(directory, 'filling', [40 * MIB])
    const tensors = { t: { dtype: 'U8' as const, shape: [40 * MIB], data: bytesOf(3, 40 * MIB) } }
    let released = false
    const onProgress = () => {
      if (!released) store.releasePool({ force: true })
      released = true
    }
    await store.register('x', { tensors }, { pool: 'shared', onProgress })
    await store.register('y', { files: [path] }, { pool: 'shared' })
    expect(contents(store, 'x').get('t')).toBe(tensors.t.data.toString('base64'))
    const view = store.lease('x').segments[0]!.view(0, 10)
    expect(store.poolStats).toMatchObject({ blocks: 1, usedBlocks: 1 })
    store.unregister('x', { force: true })
    expect(store.poolStats).toMatchObject({ blocks: 1, usedBlocks: 1 })
    expect(view.length).toBe(10)
  })
})

describe('digests', () => {
  const MASK = (1n << 64n) - 1n
  const mix = (x: bigint) => {
    for (let i = 0; i < 2; i++) x = ((x ^ (x >> 32n)) * 0xd6e8feb86659fd93n) & MASK
    return x ^ (x >> 32n)
  }
  /** docs/worker-protocol.md, "Digest", word by word. */
  const digestOf = (bytes: Buffer) => {
    const padded = Buffer.concat([bytes, Buffer.alloc((8 - (bytes.length % 8)) % 8)])
    let digest = mix(BigInt(bytes.length) ^ 0xff51afd7ed558ccdn)
    for (let i = 0; i < padded.length / 8; i++) {
      digest += mix((padded.readBigUInt64LE(i * 8) + BigInt(i + 1) * 0x9e3779b97f4a7c15n) & MASK)
    }
    return digest & MASK
  }

  it('are computed once, by the formula, and kept with the table', async () => {
    const path = await file(directory, 'digest', [0, 1, 7, 8, 9, 1000, 4099])
    await store.register('x', { files: [path] }, { digests: false })
    expect(store.metas('x').tensors.digests).toBeUndefined()
    await store.register('y', { files: [path] })
    const whileReading = store.metas('y').tensors.digests
    expect(await store.computeDigests('y')).toBe(whileReading)
    const [digests, again] = await Promise.all([store.computeDigests('x'), store.computeDigests('x')])
    expect(again).toBe(digests)
    expect(store.metas('x').tensors.digests).toBe(digests)
    const expected = [...(await fromDisk([path])).values()].map((bytes) => digestOf(Buffer.from(bytes, 'base64')))
    expect([...digests]).toEqual(expected)
    expect([...whileReading!]).toEqual(expected)
    store.unregister('x')
    store.unregister('y')
  })
})
