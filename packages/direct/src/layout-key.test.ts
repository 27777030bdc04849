import { tensorTable, type Manifest, type TensorMeta } from '@ckpt/contract'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { layoutKey } from './layout-key.ts'

const tensor = fc.record({
  name: fc.string({ minLength: 1, maxLength: 12 }),
  dtype: fc.constantFrom('BF16' as const, 'F32' as const),
  shape: fc.array(fc.integer({ min: 1, max: 64 }), { maxLength: 3 }),
  bytes: fc.nat(2 ** 40),
  segment: fc.nat(3),
  offset: fc.nat(2 ** 40),
})
const layouts = fc.array(fc.array(tensor, { maxLength: 6 }), { minLength: 1, maxLength: 3 })

function manifestOf(ranks: readonly (readonly TensorMeta[])[], checkpoint: string, digest: bigint, host = 'a'): Manifest {
  return {
    checkpoint,
    digest: `${digest}`,
    ranks: ranks.map((tensors, rank) => ({
      rank,
      host,
      deviceUuid: `HOST-${rank}`,
      segments: [{ bytes: 2 ** 41, kind: 'shared' }],
      tensors: tensorTable(
        tensors,
        BigUint64Array.from(tensors, () => digest),
      ),
      digest: `${digest}`,
    })),
  }
}

it('is the same for checkpoints that lie alike, whatever their names and bytes', () => {
  fc.assert(
    fc.property(layouts, (ranks) => {
      expect(layoutKey(manifestOf(ranks, 'one', 1n))).toBe(layoutKey(manifestOf(ranks, 'two', 2n)))
    }),
  )
})

it('differs as soon as one tensor is not the same, or not in the same place, or on a different host', () => {
  const change = fc.constantFrom<(one: TensorMeta) => TensorMeta>(
    (one) => ({ ...one, name: `${one.name}x` }),
    (one) => ({ ...one, dtype: one.dtype === 'BF16' ? 'F16' : 'BF16' }),
    (one) => ({ ...one, shape: [...one.shape, 2] }),
    (one) => ({ ...one, bytes: one.bytes + 1 }),
    (one) => ({ ...one, segment: one.segment + 1 }),
    (one) => ({ ...one, offset: one.offset + 1 }),
  )
  fc.assert(
    fc.property(layouts, fc.nat(), fc.nat(), change, (ranks, at, row, changed) => {
      const before = layoutKey(manifestOf(ranks, 'one', 1n))
      expect(layoutKey(manifestOf(ranks, 'one', 1n, 'b'))).not.toBe(before)
      const rank = at % ranks.length
      const { length } = ranks[rank]!
      if (length === 0) return
      const other = ranks.map((tensors, i) =>
        i === rank ? tensors.map((one, k) => (k === row % length ? changed(one) : one)) : tensors,
      )
      expect(layoutKey(manifestOf(other, 'one', 1n))).not.toBe(before)
    }),
  )
})
