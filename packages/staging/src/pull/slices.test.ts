import fc from 'fast-check'
import { expect, it } from 'vitest'
import { cutPull, Slices } from './slices.ts'

const KIB = 1024

it('slices cover every byte of a bucket once, and no group has more than one of a bucket', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 4096 * KIB }), { minLength: 1, maxLength: 20 }),
      fc.integer({ min: 2, max: 40 }),
      (sizes, groups) => {
        const slices = new Slices({ buckets: { count: sizes.length, bytes: Float64Array.from(sizes) } as never }, groups)
        for (const [bucket, size] of sizes.entries()) {
          const all = slices.of(bucket)
          expect(all.reduce((end, { from, bytes }) => (from === end && bytes > 0 ? end + bytes : NaN), 0)).toBe(size)
          expect(new Set(all.map(({ group }) => group)).size).toBe(all.length)
          for (let group = 0; group < groups; group++) {
            expect(slices.find(bucket, group)).toEqual(all.find((slice) => slice.group === group))
          }
        }
      },
    ),
  )
})

it('groups have about equal parts, though one bucket is as large as all others', () => {
  const sizes = [4096, ...Array.from({ length: 64 }, () => 64)].map((size) => size * KIB)
  const slices = new Slices({ buckets: { count: sizes.length, bytes: Float64Array.from(sizes) } as never }, 8)
  const load = new Float64Array(8)
  for (const bucket of sizes.keys()) for (const { group, bytes } of slices.of(bucket)) load[group]! += bytes
  expect(Math.max(...load)).toBe(Math.min(...load))
})

it('reads of a slice are those of its bytes, each from where it was', () => {
  // Byte b of the bucket is byte b + 1000 of segment 0, or b + 5000 of segment 1, of alternating runs.
  const runs = {
    rank: 3,
    count: 3,
    segment: Float64Array.of(0, 1, 0),
    segmentOffset: Float64Array.of(1000, 5010, 1030),
    bucketOffset: Float64Array.of(0, 10, 30),
    bytes: Float64Array.of(10, 15, 10),
  }
  const { from } = cutPull({ from: [runs, { ...runs, rank: 4, count: 0 }], missing: [] }, { from: 5, bytes: 27 }, 100)
  expect(from).toEqual([
    {
      rank: 3,
      count: 3,
      segment: Float64Array.of(0, 1, 0),
      segmentOffset: Float64Array.of(1005, 5010, 1030),
      bucketOffset: Float64Array.of(100, 105, 125),
      bytes: Float64Array.of(5, 15, 2),
    },
  ])
})
