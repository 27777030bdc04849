import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ContiguousCopy, Host } from '@ckpt/contract'
import fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import { createHost } from '../host/host.ts'
import { NativeHostMemory, nativeMemory } from '../host/memory.ts'
import { SLICE_BYTES } from './memory.ts'
import { bySlice, readAndPin } from './read-and-pin.ts'

const read = fc.record({
  source: fc.nat(3),
  sourceOffset: fc.nat(2 ** 40),
  destination: fc.nat(2),
  destinationOffset: fc.nat(5 * SLICE_BYTES),
  bytes: fc.integer({ min: 1, max: 3 * SLICE_BYTES }),
})

it('groups reads by slice without losing, moving or repeating a byte', () => {
  fc.assert(
    fc.property(fc.array(read, { maxLength: 20 }), fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()), (reads, deferred) => {
      const groups = bySlice(reads, deferred)
      for (const { memory, slice, reads: parts } of groups) {
        for (const part of parts) {
          if (slice < 0) expect(deferred[part.destination]).toBe(false)
          else {
            expect(part.destination).toBe(memory)
            expect(Math.floor(part.destinationOffset / SLICE_BYTES)).toBe(slice)
            expect(Math.floor((part.destinationOffset + part.bytes - 1) / SLICE_BYTES)).toBe(slice)
          }
        }
      }
      expect(new Set(groups.filter(({ slice }) => slice >= 0).map(({ memory, slice }) => `${memory}/${slice}`)).size).toBe(
        groups.filter(({ slice }) => slice >= 0).length,
      )
      // Joined, the parts equal the reads.
      const parts = groups.flatMap((group) => group.reads)
      const bytes = (list: readonly ContiguousCopy[]) => list.reduce((sum, one) => sum + one.bytes, 0)
      expect(bytes(parts)).toBe(bytes(reads))
      const key = (one: ContiguousCopy) => `${one.source}/${one.destination}/${one.sourceOffset - one.destinationOffset}`
      const shifts = new Set(reads.map(key))
      for (const part of parts) expect(shifts.has(key(part))).toBe(true)
    }),
  )
})

describe('readAndPin', () => {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-read-and-pin-'))
  afterAll(() => rmSync(directory, { recursive: true, force: true }))
  const SLICES = 3

  /** A file that is empty except for the last byte of each slice. */
  function sparseFile(name: string, slices: number): string {
    const path = join(directory, name)
    const file = openSync(path, 'w')
    ftruncateSync(file, slices * SLICE_BYTES)
    for (let slice = 1; slice <= slices; slice++) writeSync(file, Buffer.of(slice), 0, 1, slice * SLICE_BYTES - 1)
    closeSync(file)
    return path
  }

  /** Memory that records the last byte of each slice while it is pinned, without a GPU. */
  class NotedMemory extends NativeHostMemory {
    readonly pinned = new Map<number, number>()

    static async of(host: Host, bytes: number): Promise<NotedMemory> {
      return new NotedMemory(nativeMemory(await host.allocate({ bytes, lock: false, prefault: false })))
    }

    get unpinned(): number[] {
      const slices = Array.from({ length: Math.ceil(this.bytes / SLICE_BYTES) }, (_, slice) => slice)
      return slices.filter((slice) => !this.pinned.has(slice))
    }

    pin(slice: number): Promise<void> {
      expect(this.pinned.has(slice)).toBe(false)
      const end = Math.min(this.bytes, (slice + 1) * SLICE_BYTES)
      this.pinned.set(slice, this.view(end - 1, 1)[0]!)
      return Promise.resolve()
    }
  }

  const whole = (source: number, bytes: number): ContiguousCopy => ({
    source,
    sourceOffset: 0,
    destination: 0,
    destinationOffset: 0,
    bytes,
  })

  it('pins each slice once, when all of it was read, and what nobody reads too', async () => {
    const host = createHost()
    const memory = await NotedMemory.of(host, (SLICES + 1) * SLICE_BYTES)
    try {
      const told: number[] = []
      const bytes = SLICES * SLICE_BYTES
      const files = [join(directory, 'not there'), sparseFile('whole', SLICES)]
      const request = { files, memories: [memory], reads: [whole(1, bytes)], threads: 2 }
      // The file that nothing is read from is not opened.
      expect((await readAndPin(host, { ...request, onProgress: (done) => told.push(done) })).bytes).toBe(bytes)
      expect([...memory.pinned].sort(([a], [b]) => a - b)).toEqual([
        [0, 1],
        [1, 2],
        [2, 3],
        [3, 0],
      ])
      expect(told.at(-1)).toBe(bytes)
      expect(told).toEqual([...told].sort((a, b) => a - b))
    } finally {
      memory.close()
    }
  })

  it('reads to the end when a slice cannot be pinned, and then says why', async () => {
    const host = createHost()
    const memory = await NotedMemory.of(host, SLICES * SLICE_BYTES)
    try {
      const refusal = new Error('no pin')
      const pin = memory.pin.bind(memory)
      memory.pin = (slice) => (slice === 0 ? Promise.reject(refusal) : pin(slice))
      const files = [sparseFile('refused', SLICES)]
      const request = { files, memories: [memory], reads: [whole(0, SLICES * SLICE_BYTES)], threads: 2 }
      await expect(readAndPin(host, request)).rejects.toBe(refusal)
      expect([...memory.pinned.keys()].sort()).toEqual([1, 2])
    } finally {
      memory.close()
    }
  })

  it('pins nothing behind a read that failed, and says which file', async () => {
    const host = createHost()
    const memory = await NotedMemory.of(host, 2 * SLICES * SLICE_BYTES)
    try {
      const files = [sparseFile('short', 1)]
      const request = { files, memories: [memory], reads: [whole(0, 2 * SLICES * SLICE_BYTES)], threads: 2 }
      const error = await readAndPin(host, request).catch((reason: unknown) => reason)
      expect(error).toMatchObject({ code: 'CHECKPOINT_UNREADABLE', fields: { file: files[0] } })
      expect([...memory.pinned.keys()].filter((slice) => slice > 0)).toEqual([])
    } finally {
      memory.close()
    }
  })
})
