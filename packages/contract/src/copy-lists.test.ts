import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { CkptError, ContiguousCopies, StridedCopies, type ContiguousCopy, type StridedCopy } from './index.ts'

const size = fc.nat({ max: 2 ** 52 })
const strided: fc.Arbitrary<StridedCopy> = fc.record({
  source: fc.nat(),
  sourceOffset: size,
  sourcePitch: size,
  destination: fc.nat(),
  destinationOffset: size,
  destinationPitch: size,
  rowBytes: size,
  rows: fc.nat(),
})
const contiguous: fc.Arbitrary<ContiguousCopy> = fc.record({
  source: fc.nat(),
  sourceOffset: size,
  destination: fc.nat(),
  destinationOffset: size,
  bytes: size,
})

describe('a list of copies', () => {
  it('gives back what it was made from, in the order that native code takes', () => {
    fc.assert(
      fc.property(fc.array(strided), fc.array(contiguous), (two, one) => {
        const copies = StridedCopies.from(two)
        expect([...copies]).toEqual(two)
        expect([...new StridedCopies(copies.columns)]).toEqual(two)
        expect([...copies.map((copy) => ({ ...copy, rows: copy.rows + 1 }))]).toEqual(
          two.map((copy) => ({ ...copy, rows: copy.rows + 1 })),
        )
        expect([...copies]).toEqual(two)
        expect([...ContiguousCopies.from(one)]).toEqual(one)
        expect([copies.count, ContiguousCopies.from(one).count]).toEqual([two.length, one.length])
      }),
    )
    const fields = { source: 1, sourceOffset: 2, destination: 3, destinationOffset: 4 }
    expect([...ContiguousCopies.from([{ ...fields, bytes: 5 }]).columns]).toEqual([1, 2, 3, 4, 5])
    const rows = { sourcePitch: 6, destinationPitch: 7, rowBytes: 8, rows: 9 }
    expect([...StridedCopies.from([{ ...fields, ...rows }]).columns]).toEqual([1, 2, 6, 3, 4, 7, 8, 9])
  })

  it('refuses numbers that are not whole copies, and places outside', () => {
    for (const make of [() => new StridedCopies(new Float64Array(9)), () => new ContiguousCopies(new Float64Array(4))]) {
      expect(make).toThrow(CkptError)
    }
    for (const index of [-1, 0, 0.5]) {
      expect(() => StridedCopies.from([]).at(index)).toThrow(RangeError)
      expect(() => ContiguousCopies.from([]).at(index)).toThrow(RangeError)
    }
  })
})
