import fc from 'fast-check'
import { expect, it } from 'vitest'
import { SteadyProgress } from './progress.ts'

const bytes = fc.oneof(fc.nat({ max: 10 }), fc.nat({ max: 2 ** 48 }))
const reports = fc.array(fc.tuple(bytes, bytes), { maxLength: 40 })

it('never passes the total, never goes back, and ends at all of it, whatever is reported', () => {
  fc.assert(
    fc.property(reports, (stream) => {
      const told: [number, number][] = []
      const steady = new SteadyProgress((...figures) => told.push(figures))
      for (const figures of stream) steady.report(...figures)
      steady.finish()
      for (const figures of stream) steady.report(...figures)
      const parts = told.map(([done, total]) => (total === 0 ? 1 : done / total))
      for (const [index, part] of parts.entries()) {
        expect(part).toBeLessThanOrEqual(1)
        expect(part).toBeGreaterThanOrEqual(index === 0 ? 0 : parts[index - 1]!)
      }
      expect(parts.at(-1)).toBe(1)
    }),
    { numRuns: 500 },
  )
})

it('tells every figure that rises', () => {
  const told: [number, number][] = []
  const steady = new SteadyProgress((...figures) => told.push(figures))
  for (const done of [0, 5, 5, 4, 10]) steady.report(done, 10)
  steady.finish()
  expect(told).toEqual([
    [0, 10],
    [5, 10],
    [10, 10],
  ])
})
