import { CkptError, StridedCopies, type ErrorCode, type HostMemory, type StridedCopy } from '@ckpt/contract'
import fc from 'fast-check'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { digestOf, GOLDEN, MASK, mix } from './digest.fixture.ts'
import { createHost } from './host.ts'

const host = createHost()
const open: HostMemory[] = []
let directory: string

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ckpt-host-'))
})
afterAll(() => rm(directory, { recursive: true }))
afterEach(() => {
  for (const memory of open.splice(0)) memory.close()
})

async function allocate(bytes: number): Promise<HostMemory> {
  const memory = await host.allocate({ bytes, lock: false })
  open.push(memory)
  return memory
}

async function allocateFrom(data: Uint8Array): Promise<HostMemory> {
  const memory = await allocate(Math.max(data.length, 1))
  memory.view(0, data.length).set(data)
  return memory
}

async function failure(promise: Promise<unknown>, code: ErrorCode): Promise<CkptError> {
  const error = await promise.then(
    () => expect.unreachable('it should have failed'),
    (reason: unknown) => reason,
  )
  if (!CkptError.is(error, code)) throw error
  return error
}

describe('memory of a node', () => {
  it('is there on a machine with one node, too, and a node that cannot be is refused', async () => {
    const memory = await host.allocate({ bytes: 5 << 20, lock: false, numaNode: 0 })
    open.push(memory)
    expect(memory.view(0, memory.bytes).every((byte) => byte === 0)).toBe(true)
    for (const numaNode of [-1, 0.5, 2 ** 20]) {
      const error = await failure(host.allocate({ bytes: 4096, lock: false, numaNode }), 'INVALID_ARGUMENT')
      expect(error.fields).toMatchObject({ field: 'numaNode' })
    }
  })
})

describe('digest', () => {
  it('is that of the protocol for every length from 0 to 100 at every alignment', async () => {
    const memory = await allocate(128)
    await host.fill(memory, { seed: 7n })
    const ranges = Array.from({ length: 101 * 8 }, (_, i) => ({ memory: 0, offset: i % 8, bytes: Math.floor(i / 8) }))
    const digests = await host.digest([memory], ranges)
    ranges.forEach((range, i) => expect(digests[i]).toBe(digestOf(memory.view(range.offset, range.bytes))))
    expect(digests[0]).toBe(mix(0xff51afd7ed558ccdn))
  })

  it('is that of the protocol for any ranges of several memories and any number of threads', async () => {
    const sizes = [700_001, 65_536]
    const memories = await Promise.all(sizes.map(allocate))
    await Promise.all(memories.map((memory, i) => host.fill(memory, { seed: BigInt(i) })))
    const range = fc
      .nat(1)
      .chain((memory) =>
        fc.nat(sizes[memory]!).chain((offset) => fc.nat(sizes[memory]! - offset).map((bytes) => ({ memory, offset, bytes }))),
      )
    await fc.assert(
      fc.asyncProperty(fc.array(range, { maxLength: 6 }), fc.integer({ min: 1, max: 5 }), async (ranges, threads) => {
        const digests = await host.digest(memories, ranges, { threads })
        expect([...digests]).toEqual(ranges.map((r) => digestOf(memories[r.memory]!.view(r.offset, r.bytes))))
      }),
      { numRuns: 15 },
    )
  })

  it('refuses a range outside its memory', async () => {
    const memory = await allocate(64)
    await failure(host.digest([memory], [{ memory: 0, offset: 60, bytes: 5 }]), 'INVALID_ARGUMENT')
    await failure(host.digest([memory], [{ memory: 1, offset: 0, bytes: 1 }]), 'INVALID_ARGUMENT')
    await failure(host.digest([memory], [{ memory: 0, offset: -1, bytes: 1 }]), 'INVALID_ARGUMENT')
  })
})

describe('fill', () => {
  it('writes the documented words, whatever the threads, and nothing outside the range', async () => {
    const bytes = 600_013
    const memory = await allocate(bytes + 10)
    await host.fill(memory, { offset: 3, bytes, seed: 5n, threads: 3 })
    const view = memory.view(0, bytes + 10)
    for (const word of [0, 1, 2, 12_345, 74_999])
      expect(view.readBigUInt64LE(3 + 8 * word)).toBe(mix((5n + BigInt(word + 1) * GOLDEN) & MASK))
    expect(view.readUIntLE(3 + 600_008, 5)).toBe(Number(mix((5n + 75_002n * GOLDEN) & MASK) & 0xffffffffffn))
    expect([...view.subarray(0, 3), ...view.subarray(bytes + 3)]).toEqual(new Array(10).fill(0))
  })
})

describe('copy', () => {
  it('moves what a plain model moves', async () => {
    const size = 1 << 20
    const source = await allocate(size)
    await host.fill(source, { seed: 1n })
    const from = source.view(0, size)
    // Each copy has its own region of the destination, since the order of copies is undefined.
    const copy = fc
      .record({
        rows: fc.integer({ min: 0, max: 40 }),
        rowBytes: fc.integer({ min: 0, max: 9000 }),
        gap: fc.nat(200),
        sourcePitch: fc.nat(9000),
      })
      .chain(({ rows, rowBytes, gap, sourcePitch }) =>
        fc.nat(size - 40 * 9000 - 9000).map((sourceOffset) => ({ rows, rowBytes, gap, sourcePitch, sourceOffset })),
      )
    await fc.assert(
      fc.asyncProperty(fc.array(copy, { maxLength: 8 }), fc.integer({ min: 1, max: 4 }), async (list, threads) => {
        let end = 1
        const copies = list.map(({ gap, ...c }) => {
          const at = { ...c, source: 0, destination: 1, destinationOffset: end, destinationPitch: c.rowBytes + gap }
          end += c.rows * at.destinationPitch + 3
          return at
        })
        const destination = await allocate(end + 1)
        const expected = Buffer.alloc(end + 1)
        for (const c of copies) {
          for (let row = 0; row < c.rows; row++) {
            from.copy(
              expected,
              c.destinationOffset + row * c.destinationPitch,
              c.sourceOffset + row * c.sourcePitch,
              c.sourceOffset + row * c.sourcePitch + c.rowBytes,
            )
          }
        }
        const stats = await host.copy([source, destination], StridedCopies.from(copies), { threads })
        expect(stats.bytes).toBe(copies.reduce((sum, c) => sum + c.rows * c.rowBytes, 0))
        expect(destination.view(0, end + 1).equals(expected)).toBe(true)
        destination.close()
      }),
      { numRuns: 60 },
    )
  })

  it('moves large unaligned runs', async () => {
    const bytes = (9 << 20) + 77
    const source = await allocate(bytes + 13)
    const destination = await allocate(bytes + 9)
    await host.fill(source, { seed: 3n })
    const copies = StridedCopies.from([
      {
        source: 0,
        sourceOffset: 13,
        sourcePitch: 0,
        destination: 1,
        destinationOffset: 5,
        destinationPitch: 0,
        rowBytes: bytes,
        rows: 1,
      },
    ])
    await host.copy([source, destination], copies, { threads: 2 })
    expect(destination.view(5, bytes).equals(source.view(13, bytes))).toBe(true)
    expect([...destination.view(0, 5), ...destination.view(bytes + 5, 4)]).toEqual(new Array(9).fill(0))
  })

  it('checks every copy before it moves a byte', async () => {
    const source = await allocateFrom(new Uint8Array(100).fill(1))
    const destination = await allocate(100)
    const good = {
      source: 0,
      sourceOffset: 0,
      sourcePitch: 10,
      destination: 1,
      destinationOffset: 0,
      destinationPitch: 10,
      rowBytes: 10,
      rows: 10,
    }
    const bad: Partial<StridedCopy>[] = [
      { rows: 11 },
      { sourceOffset: 1 },
      { destinationOffset: 1 },
      { destinationPitch: 9 },
      { source: 2 },
      { destination: 7 },
      { sourceOffset: -1 },
      { rowBytes: 0.5 },
      { sourcePitch: Number.NaN },
      { rows: 2 ** 52, sourcePitch: 2 ** 52 },
      { rows: 2 ** 53 },
    ]
    for (const change of bad)
      await failure(host.copy([source, destination], StridedCopies.from([good, { ...good, ...change }])), 'INVALID_ARGUMENT')
    expect(destination.view(0, 100).every((byte) => byte === 0)).toBe(true)
    await host.copy([source, destination], StridedCopies.from([good]))
    expect(destination.view(0, 100).every((byte) => byte === 1)).toBe(true)
  })
})

describe('read', () => {
  const file = async (name: string, bytes: number, seed: bigint): Promise<{ path: string; data: Buffer }> => {
    const memory = await allocate(bytes)
    await host.fill(memory, { seed })
    const data = Buffer.from(memory.view(0, bytes))
    const path = join(directory, name)
    await writeFile(path, data)
    return { path, data }
  }

  it('lands runs of several files where they belong and reports progress', async () => {
    const a = await file('a', 20_000_003, 1n)
    const b = await file('b', 5_000_001, 2n)
    const memories = await Promise.all([allocate(25_000_000), allocate(100)])
    const reads = [
      { source: 0, sourceOffset: 1, destination: 0, destinationOffset: 7, bytes: 19_000_000 },
      { source: 1, sourceOffset: 77, destination: 0, destinationOffset: 19_000_100, bytes: 4_900_000 },
      { source: 1, sourceOffset: 0, destination: 1, destinationOffset: 9, bytes: 50 },
      { source: 0, sourceOffset: 20_000_003, destination: 1, destinationOffset: 100, bytes: 0 },
    ]
    const progress: number[] = []
    const stats = await host.read({
      files: [a.path, b.path],
      memories,
      reads,
      threads: 2,
      onProgress: (bytes) => progress.push(bytes),
    })
    expect(stats.bytes).toBe(23_900_050)
    expect(progress.at(-1)).toBe(23_900_050)
    expect(progress).toEqual([...progress].sort((x, y) => x - y))
    for (const r of reads) {
      const data = [a.data, b.data][r.source]!.subarray(r.sourceOffset, r.sourceOffset + r.bytes)
      expect(memories[r.destination]!.view(r.destinationOffset, r.bytes).equals(data)).toBe(true)
    }
  })

  it('names a file that is missing, short, or no file', async () => {
    const memory = await allocate(1000)
    const short = await file('short', 999, 3n)
    const request = (path: string) =>
      host.read({
        files: [path],
        memories: [memory],
        reads: [{ source: 0, sourceOffset: 0, destination: 0, destinationOffset: 0, bytes: 1000 }],
      })
    const missing = await failure(request(join(directory, 'missing')), 'CHECKPOINT_UNREADABLE')
    expect(missing.fields).toMatchObject({ file: join(directory, 'missing'), errno: 2 })
    const cut = await failure(request(short.path), 'CHECKPOINT_UNREADABLE')
    expect(cut.fields.file).toBe(short.path)
    expect(cut.message).toContain('999')
    expect((await failure(request(directory), 'CHECKPOINT_UNREADABLE')).fields.file).toBe(directory)
  })

  it('refuses a run that leaves its memory, and stops when it is aborted', async () => {
    const { path } = await file('c', 1000, 4n)
    const memory = await allocate(999)
    const reads = [{ source: 0, sourceOffset: 0, destination: 0, destinationOffset: 0, bytes: 1000 }]
    await failure(host.read({ files: [path], memories: [memory], reads }), 'INVALID_ARGUMENT')
    await failure(host.read({ files: [path], memories: [memory], reads, signal: AbortSignal.abort() }), 'ABORTED')

    // A sparse file is created at no cost; it is far too long to be read before the abort.
    const sparse = join(directory, 'sparse')
    await writeFile(sparse, '')
    await truncate(sparse, 64 * 2 ** 30)
    const large = await allocate(1 << 20)
    const many = Array.from({ length: 65_536 }, (_, i) => ({
      source: 0,
      sourceOffset: i * 2 ** 20,
      destination: 0,
      destinationOffset: 0,
      bytes: 2 ** 20,
    }))
    const controller = new AbortController()
    const reading = host.read({ files: [sparse], memories: [large], reads: many, threads: 1, signal: controller.signal })
    setTimeout(() => controller.abort(new Error('enough')), 30)
    const error = await failure(reading, 'ABORTED')
    expect(error.cause).toMatchObject({ message: 'enough' })
  })
})

describe('memory', () => {
  it('is zero, says what it is, and is locked or says why not', async () => {
    const memory = await host.allocate({ bytes: (4 << 20) + 1 })
    open.push(memory)
    expect(memory).toMatchObject({ bytes: (4 << 20) + 1, kind: 'anonymous', name: undefined })
    expect(memory.locked).toBe(memory.lockError === undefined)
    expect(memory.view(0, memory.bytes).every((byte) => byte === 0)).toBe(true)
    expect(() => memory.unlink()).toThrow(expect.objectContaining({ code: 'INVALID_STATE' }))
  })

  it('locks pages that come only after it was allocated', async () => {
    const lockedKiB = (): number => Number(/VmLck:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1])
    const before = lockedKiB()
    const memory = await host.allocate({ bytes: 8 << 20, prefault: false })
    open.push(memory)
    if (memory.locked) expect(lockedKiB() - before).toBeGreaterThanOrEqual(8 << 10)
    else expect(memory.lockError).toMatch(/RLIMIT_MEMLOCK|lock/)
  })

  it('gives views without copies and detaches them when closed', async () => {
    const memory = await allocate(1000)
    const view = memory.view(10, 20)
    memory.view(0, 1000).fill(9)
    expect(view.every((byte) => byte === 9)).toBe(true)
    expect(memory.view(1000, 0)).toHaveLength(0)
    for (const [offset, length] of [
      [990, 11],
      [1001, 0],
      [-1, 1],
      [0.5, 1],
      [0, Number.NaN],
    ] as const) {
      expect(() => memory.view(offset, length)).toThrow(RangeError)
    }
    memory.close()
    memory.close()
    expect(view).toHaveLength(0)
    expect(() => memory.view(0, 1)).toThrow(expect.objectContaining({ code: 'INVALID_STATE' }))
    await failure(host.fill(memory, { seed: 1n }), 'INVALID_STATE')
  })

  it('stays mapped for an operation that runs while it is closed', async () => {
    const memory = await allocate(64 << 20)
    const filling = host.fill(memory, { seed: 1n, threads: 2 })
    memory.close()
    await filling
  })

  it('keeps views alive after the memory object was collected', async () => {
    let view: Buffer | undefined
    await (async () => {
      view = (await host.allocate({ bytes: 1 << 20, lock: false })).view(0, 1 << 20)
    })()
    for (let i = 0; i < 5; i++) {
      globalThis.gc!()
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    expect(view!.fill(3).every((byte) => byte === 3)).toBe(true)
  })

  it('unmaps when closed', async () => {
    const mapped = (): number => Number(/VmSize:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1])
    const cycle = async (): Promise<void> => {
      const memory = await host.allocate({ bytes: 128 << 20, prefault: false })
      memory.view(0, 10).fill(1)
      memory.close()
    }
    await cycle()
    const before = mapped()
    for (let i = 0; i < 10; i++) await cycle()
    // A leak would be 1280 MiB; a thread that starts meanwhile maps about 72 MiB.
    expect(mapped() - before).toBeLessThan(512 << 10)
  })

  it('refuses more memory than there is', async () => {
    await failure(host.allocate({ bytes: 2 ** 50 }), 'OUT_OF_MEMORY')
    await failure(host.allocate({ bytes: 2 ** 50, prefault: false }), 'OUT_OF_MEMORY')
    await failure(host.createShared(`ckpt-test-${process.pid}-huge`, { bytes: 2 ** 50 }), 'OUT_OF_MEMORY')
    await failure(host.openShared(`ckpt-test-${process.pid}-huge`), 'INVALID_ARGUMENT')
    await failure(host.allocate({ bytes: 0 }), 'INVALID_ARGUMENT')
    await failure(host.allocate({ bytes: 1.5 }), 'INVALID_ARGUMENT')
  })

  it('maps a file in place', async () => {
    const path = join(directory, 'mapped')
    await writeFile(path, 'hello')
    const memory = await host.mapFile(path)
    open.push(memory)
    expect(memory).toMatchObject({ bytes: 5, kind: 'file', name: path })
    expect(memory.view(0, 5).toString()).toBe('hello')
    expect(() => memory.unlink()).toThrow(expect.objectContaining({ code: 'INVALID_STATE' }))
    const missing = await failure(host.mapFile(join(directory, 'nothing')), 'CHECKPOINT_UNREADABLE')
    expect(missing.fields).toMatchObject({ file: join(directory, 'nothing'), errno: 2 })
    expect((await failure(host.mapFile(directory), 'CHECKPOINT_UNREADABLE')).fields.file).toBe(directory)
  })

  it('takes only its own memories', async () => {
    const memory = await allocate(8)
    const forged = Object.create(Object.getPrototypeOf(memory) as object) as HostMemory
    await failure(host.fill(forged, { offset: 0, bytes: 1, seed: 1n }), 'INVALID_ARGUMENT')
  })
})
