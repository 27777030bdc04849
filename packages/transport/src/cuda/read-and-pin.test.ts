import fc from 'fast-check'
import type { FileRead } from '@ckpt/contract'
import { expect, it } from 'vitest'
import { SLICE_BYTES } from './memory.ts'
import { bySlice } from './read-and-pin.ts'

const read = fc.record({
  file: fc.nat(3),
  fileOffset: fc.nat(2 ** 40),
  memory: fc.nat(2),
  memoryOffset: fc.nat(5 * SLICE_BYTES),
  bytes: fc.integer({ min: 1, max: 3 * SLICE_BYTES }),
})

it('groups reads by slice without losing, moving or repeating a byte', () => {
  fc.assert(
    fc.property(fc.array(read, { maxLength: 20 }), fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()), (reads, deferred) => {
      const groups = bySlice(reads, deferred)
      for (const { memory, slice, reads: parts } of groups) {
        for (const part of parts) {
          if (slice < 0) expect(deferred[part.memory]).toBe(false)
          else {
            expect(part.memory).toBe(memory)
            expect(Math.floor(part.memoryOffset / SLICE_BYTES)).toBe(slice)
            expect(Math.floor((part.memoryOffset + part.bytes - 1) / SLICE_BYTES)).toBe(slice)
          }
        }
      }
      expect(new Set(groups.filter(({ slice }) => slice >= 0).map(({ memory, slice }) => `${memory}/${slice}`)).size).toBe(
        groups.filter(({ slice }) => slice >= 0).length,
      )
      // Put together again, the parts are the reads.
      const parts = groups.flatMap((group) => group.reads)
      const bytes = (list: readonly FileRead[]) => list.reduce((sum, one) => sum + one.bytes, 0)
      expect(bytes(parts)).toBe(bytes(reads))
      const key = (one: FileRead) => `${one.file}/${one.memory}/${one.fileOffset - one.memoryOffset}`
      const shifts = new Set(reads.map(key))
      for (const part of parts) expect(shifts.has(key(part))).toBe(true)
    }),
  )
})
