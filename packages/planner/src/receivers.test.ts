import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { assignReceivers, bucketTensors, modelPull, planP2p, pullOf } from './index.ts'
import { manifestOf } from './manifests.fixture.ts'

/** `ranks` ranks, starting at rank `first`, with `perNic` of them on each NIC. */
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
          // Equal shares, and enough buckets that one bucket is less than a fifth of a NIC's mean.
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

describe('planP2p as a whole', () => {
  /** A rank of a manifest that holds its own equal tensors. */
  const holder = (rank: number, tensors: number, bytes: number) =>
    Array.from(
      { length: tensors },
      (_, i) => ({ name: `${rank}.${i}`, dtype: 'U8', shape: [bytes], gap: 0, jump: false }) as const,
    )

  it('has every tensor pulled once, by one receiver, from an owner that holds it', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.integer({ min: 1, max: 5000 }), { maxLength: 12 }), { minLength: 1, maxLength: 6 }),
        fc.integer({ min: 1, max: 5 }),
        fc.boolean(),
        (ranks, receivers, joining) => {
          const sizes = ranks.map((list, rank) =>
            list.map((bytes, i) => ({ name: `${rank}.${i}`, dtype: 'U8', shape: [bytes], gap: 0, jump: i % 5 === 4 }) as const),
          )
          // Receivers are ranks of the manifest that hold nothing, or of a separate world.
          const manifest = manifestOf(joining ? sizes : [...sizes, ...Array.from({ length: receivers }, () => [])])
          const first = joining ? 0 : ranks.length
          const list = Array.from({ length: receivers }, (_, index) => first + index)
          const plan = planP2p(manifest, { ringBytes: 1 << 20, preferredBucketBytes: 6000, ranks: list, joining })
          expect(plan.ranks).toEqual(list)
          const pulled = new Map<string, number>()
          for (let bucket = 0; bucket < plan.buckets.count; bucket++) {
            expect(list).toContain(plan.buckets.receiver[bucket])
            const { from, missing } = pullOf(plan, manifest, bucket, new Set())
            expect(missing).toEqual([])
            expect(from.map((runs) => runs.rank)).toEqual([plan.buckets.owner[bucket]])
            for (const tensor of bucketTensors(plan, manifest, bucket))
              pulled.set(tensor.name, (pulled.get(tensor.name) ?? 0) + 1)
            // The runs cover every tensor, from its offset in the owner's segment.
            const { tensors } = manifest.ranks.find(({ rank }) => rank === plan.buckets.owner[bucket])!
            for (let item = plan.buckets.firstItem[bucket]!; item < plan.buckets.firstItem[bucket + 1]!; item++) {
              const row = plan.items.tensor[item]!
              const to = plan.items.bucketOffset[item]!
              const covered = from[0]!.bucketOffset.findIndex(
                (start, run) =>
                  start <= to &&
                  to + tensors.bytes[row]! <= start + from[0]!.bytes[run]! &&
                  from[0]!.segment[run] === tensors.segments[row] &&
                  from[0]!.segmentOffset[run]! + to - start === tensors.offsets[row],
              )
              expect(covered).toBeGreaterThanOrEqual(0)
            }
          }
          expect([...pulled.values()].every((times) => times === 1)).toBe(true)
          expect(pulled.size).toBe(ranks.flat().length)
        },
      ),
    )
  })

  it('puts holders of replicas in the place of lost owners, and names what nobody else holds', () => {
    const shared = holder(0, 6, 1000)
    const only = [{ name: 'only', dtype: 'U8', shape: [700], gap: 0, jump: false } as const]
    const manifest = manifestOf([[...shared, ...only], shared, shared])
    const plan = planP2p(manifest, { ringBytes: 1 << 20, preferredBucketBytes: 2100, ranks: [0], joining: true })
    const bytes = (lost: number[]) => {
      let total = 0
      const missing: string[] = []
      for (let bucket = 0; bucket < plan.buckets.count; bucket++) {
        const pull = pullOf(plan, manifest, bucket, new Set(lost))
        for (const runs of pull.from) {
          expect(lost).not.toContain(runs.rank)
          total += runs.bytes.reduce((sum, value) => sum + value, 0)
        }
        missing.push(...pull.missing)
      }
      return { total, missing }
    }
    expect(bytes([])).toEqual({ total: 6700, missing: [] })
    expect(bytes([1])).toEqual({ total: 6700, missing: [] })
    expect(bytes([1, 2])).toEqual({ total: 6700, missing: [] })
    expect(bytes([0])).toEqual({ total: 6000, missing: ['only'] })
    expect(bytes([0, 1, 2]).missing).toHaveLength(7)
  })

  it('gives every receiver several buckets, however few an owner has', () => {
    const manifest = manifestOf([holder(0, 400, 1 << 18)])
    for (const receivers of [1, 3, 5, 8]) {
      const ranks = Array.from({ length: receivers }, (_, index) => index)
      const plan = planP2p(manifest, { ringBytes: 2 ** 30, ranks, joining: true })
      const load = ranks.map((rank) =>
        plan.buckets.bytes.reduce((sum, b, i) => sum + (plan.buckets.receiver[i] === rank ? b : 0), 0),
      )
      expect(Math.max(...load)).toBeLessThanOrEqual((1.2 * load.reduce((sum, value) => sum + value, 0)) / receivers)
    }
  })

  // Sources on these hosts, and as many receivers on other hosts of the same kind; the ranks of each host share this many NICs.
  it.each([
    [8, 1, 8],
    [8, 1, 1],
    [16, 2, 8],
    [16, 2, 2],
    [256, 32, 8],
    [256, 32, 4],
  ])(
    '%d ranks on %d hosts with %d NICs each: within 1.05 of the bandwidth bound, NICs within 1.2 of the mean',
    (ranks, hosts, nicsPerHost) => {
      const perHost = ranks / hosts
      const nic = (rank: number) =>
        `host-${Math.floor(rank / perHost)}/${Math.floor(((rank % perHost) * nicsPerHost) / perHost)}`
      const manifest = manifestOf([
        ...Array.from({ length: ranks }, (_, rank) => holder(rank, 24, 1 << 16)),
        ...Array.from({ length: ranks }, () => []),
      ])
      const nics = new Map(Array.from({ length: 2 * ranks }, (_, rank) => [rank, [nic(rank)]] as const))
      const endpoints = [...nics].map(([rank, names]) => ({ rank, nics: names }))
      for (const receivers of [perHost, ranks]) {
        const list = Array.from({ length: receivers }, (_, index) => ranks + index)
        const plan = planP2p(manifest, { ringBytes: 2 ** 30, preferredBucketBytes: 1 << 17, ranks: list, nics })
        const assignment = assignReceivers({
          owner: plan.buckets.owner,
          bytes: plan.buckets.bytes,
          sources: endpoints.slice(0, ranks),
          receivers: endpoints.filter(({ rank }) => list.includes(rank)),
        })
        expect(assignment.receiver).toEqual(plan.buckets.receiver)
        const { seconds, boundSeconds } = modelPull(assignment, plan.buckets.bytes, { nicBytesPerSecond: 50e9, window: 4 })
        expect(seconds).toBeGreaterThanOrEqual(boundSeconds * 0.999)
        expect(seconds).toBeLessThanOrEqual(1.05 * boundSeconds)
        for (const column of [assignment.sourceNic, assignment.receiverNic]) {
          const load = perNic(column, plan.buckets.bytes)
          expect(Math.max(...load)).toBeLessThanOrEqual((1.2 * load.reduce((sum, value) => sum + value, 0)) / load.length)
        }
      }
    },
  )
})
