import { CkptError } from '@ckpt/contract'
import { headerFor, parseHeader, type SafetensorsHeader } from '@ckpt/safetensors'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { layoutFiles, layoutTensors, RUN_ALIGNMENT, TENSOR_ALIGNMENT } from './layout.ts'
import { shareOf } from './share.ts'

/** Files whose tensors have the given sizes in bytes. */
const files = fc
  .array(
    fc.array(
      fc.oneof(
        fc.nat({ max: 40 }),
        fc.nat({ max: 5000 }),
        fc.nat({ max: 10 }).map((n) => n * 256),
      ),
      { maxLength: 12 },
    ),
    { maxLength: 6 },
  )
  .map((sizes) =>
    sizes.map((tensors, file): SafetensorsHeader => {
      const specs = tensors.map((bytes, i) => ({ name: `${file}.${i}`, dtype: 'U8' as const, shape: [bytes] }))
      const layout = headerFor(specs)
      return parseHeader(layout.header, { file: `${file}.safetensors`, fileBytes: layout.fileBytes })
    }),
  )

describe('shareOf', () => {
  it('gives every tensor to exactly one rank, in order, each rank within the largest tensor of its fair part', () => {
    fc.assert(
      fc.property(files, fc.integer({ min: 1, max: 9 }), (headers, count) => {
        const all = headers.flatMap((header) => header.tensors)
        const total = all.reduce((sum, tensor) => sum + tensor.end - tensor.begin, 0)
        const largest = Math.max(0, ...all.map((tensor) => tensor.end - tensor.begin))
        const shares = Array.from({ length: count }, (_, index) =>
          shareOf(headers, index, count).flatMap(({ header, first, last }) => header.tensors.slice(first, last)),
        )
        expect(shares.flat().map((tensor) => tensor.name)).toEqual(all.map((tensor) => tensor.name))
        for (const share of shares) {
          const bytes = share.reduce((sum, tensor) => sum + tensor.end - tensor.begin, 0)
          expect(Math.abs(bytes - total / count)).toBeLessThanOrEqual(largest)
        }
      }),
    )
  })

  it('refuses ranks that do not exist', () => {
    for (const [index, count] of [
      [-1, 2],
      [2, 2],
      [0, 0],
      [0.5, 2],
      [0, NaN],
    ] as const) {
      expect(() => shareOf([], index, count)).toThrow(CkptError)
    }
  })
})

describe('layoutFiles', () => {
  it('puts every byte of the share in one place, aligned, and never across segments', () => {
    fc.assert(
      fc.property(files, fc.integer({ min: 1, max: 20_000 }), fc.nat({ max: 3 }), (headers, limit, index) => {
        const shares = shareOf(headers, index % 2, 2)
        const layout = layoutFiles(shares, limit)
        const expected = shares.flatMap(({ header, first, last }) => header.tensors.slice(first, last))
        expect(layout.tensors.map((t) => [t.name, t.bytes])).toEqual(expected.map((t) => [t.name, t.end - t.begin]))
        expect(layout.totalBytes).toBe(layout.reads.reduce((sum, read) => sum + read.bytes, 0))

        const position = new Map(
          shares.flatMap(({ header }, file) => header.tensors.map((t) => [t.name, { file, at: header.dataStart + t.begin }])),
        )
        for (const tensor of layout.tensors) {
          expect(tensor.offset % TENSOR_ALIGNMENT).toBe(0)
          expect(tensor.offset + tensor.bytes).toBeLessThanOrEqual(layout.segmentBytes[tensor.segment]!)
          if (tensor.bytes === 0) continue
          const { file, at } = position.get(tensor.name)!
          const reads = layout.reads.filter(
            (read) => read.source === file && read.sourceOffset <= at && at + tensor.bytes <= read.sourceOffset + read.bytes,
          )
          expect(reads).toHaveLength(1)
          expect(reads[0]!.destination).toBe(tensor.segment)
          expect(reads[0]!.destinationOffset + at - reads[0]!.sourceOffset).toBe(tensor.offset)
        }
        const byPlace = [...layout.reads].sort(
          (a, b) => a.destination - b.destination || a.destinationOffset - b.destinationOffset,
        )
        byPlace.forEach((read, i) => {
          expect(read.destinationOffset % RUN_ALIGNMENT).toBe(0)
          const before = byPlace[i - 1]
          if (before?.destination === read.destination)
            expect(read.destinationOffset).toBeGreaterThanOrEqual(before.destinationOffset + before.bytes)
        })
        const most = Math.max(0, ...expected.map((t) => t.end - t.begin))
        for (const bytes of layout.segmentBytes) expect(bytes).toBeLessThanOrEqual(Math.max(limit, most) + RUN_ALIGNMENT)
      }),
    )
  })

  it('reads a file of aligned tensors in one run', () => {
    const layout = headerFor(
      Array.from({ length: 50 }, (_, i) => ({ name: `t${i}`, dtype: 'BF16' as const, shape: [i % 7, 8] })),
    )
    const header = parseHeader(layout.header, { file: 'f', fileBytes: layout.fileBytes })
    expect(layoutFiles(shareOf([header], 0, 1), 2 ** 33).reads).toEqual([
      { source: 0, sourceOffset: header.dataStart, destination: 0, destinationOffset: 0, bytes: layout.dataBytes },
    ])
  })
})

describe('layoutTensors', () => {
  it('keeps tensors apart, aligned and inside their segments', () => {
    fc.assert(
      fc.property(fc.array(fc.nat({ max: 3000 }), { maxLength: 30 }), fc.integer({ min: 1, max: 10_000 }), (sizes, limit) => {
        const data = { kind: 'bytes' as const, bytes: new Uint8Array() }
        const specs = sizes.map((bytes, i) => ({ name: `${i}`, dtype: 'U8' as const, shape: [bytes], bytes, data }))
        const { tensors, segmentBytes } = layoutTensors(specs, limit)
        expect(tensors.map((t) => t.bytes)).toEqual(sizes)
        let before = { segment: 0, end: 0 }
        for (const { segment, offset, bytes } of tensors) {
          expect(offset % RUN_ALIGNMENT).toBe(0)
          expect(offset + bytes).toBeLessThanOrEqual(segmentBytes[segment]!)
          if (segment === before.segment) expect(offset).toBeGreaterThanOrEqual(before.end)
          else expect(segment).toBe(before.segment + 1)
          before = { segment, end: offset + bytes }
        }
      }),
    )
  })
})
