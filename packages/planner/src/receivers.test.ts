import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { assignReceivers, planP2p } from './index.ts'
import { manifestOf } from './manifests.fixture.ts'

/** `ranks` ranks, `perNic` of them on each NIC, from rank `first` on. */
function endpoints(ranks: number, perNic: number, first: number) {
  return Array.from({ length: ranks }, (_, index) => ({
    rank: first + index,
    nics: [`nic-${first}-${Math.floor(index / perNic)}`],
  }))
}

function perNic(nics: Uint32Array, bytes: Float64Array): number[] {
  const load = new Map<number, number>()
  nics.forEach((nic, bucket) => load.set(nic, (load.get(nic) ?? 0) + bytes[bucket]!))
  return [...load.values()]
}

describe('assignReceivers', () => {
  it('keeps every NIC within 1.2 of the mean when shares are equal', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 16 }),
        fc.integer({ min: 1, max: 8 }),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 4 }),
        (owners, receivers, ownersPerNic, receiversPerNic) => {
          // Equal shares, and enough buckets that one more or less is below a fifth of a NIC's mean.
          const nicCount = Math.ceil(receivers / receiversPerNic)
          const rounds = Math.ceil((6 * nicCount) / owners)
          const owner = Uint32Array.from({ length: rounds * owners }, (_, bucket) => bucket % owners)
          const bytes = new Float64Array(owner.length).fill(1000)
          const sources = endpoints(owners - (owners % ownersPerNic) || owners, ownersPerNic, 0)
          if (sources.length < owners) return
          const result = assignReceivers({ owner, bytes, sources, receivers: endpoints(receivers, receiversPerNic, 100) })
          expect(result.receiver).toHaveLength(owner.length)
          for (const [nics, count] of [
            [result.receiverNic, nicCount],
            [result.sourceNic, Math.ceil(owners / ownersPerNic)],
          ] as const) {
            const load = perNic(nics, bytes)
            const mean = (owner.length * 1000) / count
            if (owners % ownersPerNic === 0 || nics === result.receiverNic)
              expect(Math.max(...load)).toBeLessThanOrEqual(1.2 * mean)
          }
        },
      ),
    )
  })

  it('is never above the mean by more than one bucket, whatever the sizes, and deterministic', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 10_000 }), { minLength: 1, maxLength: 200 }),
        fc.integer({ min: 1, max: 8 }),
        (sizes, receivers) => {
          const bytes = Float64Array.from(sizes)
          const input = {
            owner: new Uint32Array(sizes.length),
            bytes,
            sources: endpoints(1, 1, 0),
            receivers: endpoints(receivers, 1, 1),
          }
          const result = assignReceivers(input)
          const mean = sizes.reduce((sum, size) => sum + size, 0) / receivers
          expect(Math.max(...perNic(result.receiverNic, bytes))).toBeLessThanOrEqual(mean + Math.max(...sizes))
          expect(assignReceivers(input)).toEqual(result)
          for (const receiver of result.receiver) expect(input.receivers.some(({ rank }) => rank === receiver)).toBe(true)
        },
      ),
    )
  })

  it('spreads one owner over all its NICs, and ranks that share a NIC equally', () => {
    const owner = new Uint32Array(12)
    const bytes = new Float64Array(12).fill(10)
    const result = assignReceivers({
      owner,
      bytes,
      sources: [{ rank: 0, nics: ['a', 'b', 'c'] }],
      receivers: endpoints(4, 2, 1),
    })
    expect(perNic(result.sourceNic, bytes)).toEqual([40, 40, 40])
    expect([1, 2, 3, 4].map((rank) => result.receiver.filter((receiver) => receiver === rank).length)).toEqual([3, 3, 3, 3])
  })

  it('names what is missing', () => {
    const input = {
      owner: Uint32Array.of(3),
      bytes: Float64Array.of(1),
      sources: endpoints(1, 1, 0),
      receivers: endpoints(1, 1, 1),
    }
    expect(() => assignReceivers(input)).toThrow(/rank 3 owns buckets/)
    expect(() => assignReceivers({ ...input, receivers: [] })).toThrow(/no receivers/)
    expect(() => assignReceivers({ ...input, receivers: [{ rank: 1, nics: [] }] })).toThrow(/rank 1 has no NIC/)
  })
})

describe('planP2p', () => {
  it('has joiners pull from all owners, over NICs that are all used', () => {
    const manifest = manifestOf([
      ...Array.from({ length: 4 }, (_, rank) =>
        Array.from(
          { length: 8 },
          (_, index) => ({ name: `r${rank}.${index}`, dtype: 'U8', shape: [1000], gap: 0, jump: false }) as const,
        ),
      ),
      [],
      [],
    ])
    const nics = new Map(Array.from({ length: 6 }, (_, rank) => [rank, [`host/${rank}`]] as const))
    const plan = planP2p(manifest, { ringBytes: 65536, preferredBucketBytes: 1000, ranks: [4, 5], nics })
    expect(plan.strategy).toBe('p2p')
    expect(plan.ranks).toEqual([4, 5])
    expect(plan.buckets.count).toBe(32)
    for (const rank of [4, 5]) expect(plan.buckets.receiver.filter((receiver) => receiver === rank)).toHaveLength(16)
    for (const rank of [0, 1, 2, 3]) expect(plan.buckets.owner.filter((owner) => owner === rank)).toHaveLength(8)
  })
})
