import { tensorTable, type Manifest } from '@ckpt/contract'
import { planBroadcast } from '@ckpt/planner'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { without } from './remainder.ts'

/** Two ranks; rank 1 holds copies of some of rank 0's tensors. */
function manifestOf(counts: readonly [number, number], shared: number): Manifest {
  const ranks = counts.map((count, rank) => {
    const names = Array.from({ length: count }, (_, i) => (rank === 1 && i < shared ? `t0.${i}` : `t${rank}.${i}`))
    let offset = 0
    const tensors = names.map((name, i) => {
      const at = rank === 1 && i < shared ? i : i + rank * 1000
      const bytes = 2 * (1 + (at % 17))
      const tensor = { name, dtype: 'BF16' as const, shape: [bytes / 2], bytes, segment: 0, offset }
      offset += bytes
      return tensor
    })
    const digests = BigUint64Array.from(names, (_, i) => BigInt(rank === 1 && i < shared ? i : i + rank * 1000))
    const segments = [{ bytes: offset, kind: 'anonymous' as const }]
    return { rank, host: 'h', deviceUuid: `d${rank}`, segments, tensors: tensorTable(tensors, digests), digest: `r${rank}` }
  })
  return { checkpoint: 'c', digest: 'm', ranks }
}

it('leaves out what everybody has, and what is left can be planned', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), fc.nat(40), fc.nat(20), fc.infiniteStream(fc.boolean()), (a, b, c, has) => {
      const manifest = manifestOf([a, b], Math.min(a, b, c))
      const names = new Set(
        manifest.ranks.flatMap(({ tensors }) => Array.from({ length: tensors.count }, (_, i) => tensors.names.at(i))),
      )
      const loaded = new Set([...names].filter(() => has.next().value))
      const bits = new Uint8Array(Math.ceil((a + b) / 8))
      let row = 0
      for (const { tensors } of manifest.ranks) {
        for (let i = 0; i < tensors.count; i++, row++) if (loaded.has(tensors.names.at(i))) bits[row >> 3]! |= 1 << (row & 7)
      }
      const rest = without(manifest, bits)
      const left = rest.ranks.flatMap(({ tensors }) => Array.from({ length: tensors.count }, (_, i) => tensors.names.at(i)))
      const missing = [...names].filter((name) => !loaded.has(name))
      if (missing.length > 0) expect(new Set(left)).toEqual(new Set(missing))
      else expect(new Set(left).size).toBe(1)
      const plan = planBroadcast(rest, { ranks: [0, 1], ringBytes: 2 ** 20 })
      expect(plan.items.count).toBe(new Set(left).size)
      expect(rest === manifest).toBe(loaded.size === 0)
      expect(rest.digest === manifest.digest).toBe(loaded.size === 0)
    }),
  )
})
