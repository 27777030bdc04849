import { CkptError, type Manifest, type TransferPlan, tensorAt } from '@ckpt/contract'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { bucketTensors, copiesFor, planBroadcast, planP2p, planWithin } from './index.ts'
import { manifestOf, manifests } from './manifests.fixture.ts'

const RING = 64 * 1024
const RUNS = { numRuns: 50 }
const options = fc.record({
  ringBytes: fc.integer({ min: 20_000, max: 200_000 }),
  preferredBucketBytes: fc.option(fc.integer({ min: 300, max: 40_000 }), { nil: undefined }),
  minBucketBytes: fc.constantFrom(256, 1024, 2 ** 20),
})

function withoutUndefined<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, entry]) => entry !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>
  }
}

const kinds = fc.constantFrom('broadcast' as const, 'p2p' as const, 'within' as const)
const cases = fc.tuple(manifests, options, kinds).map(([manifest, chosen, kind]) => {
  const settings = withoutUndefined(chosen)
  const plan = () => {
    if (kind === 'p2p') return planP2p(manifest, { ...settings, ranks: [0] })
    return kind === 'within' ? planWithin(manifest, { ...settings, ranks: [0] }) : planBroadcast(manifest, settings)
  }
  return { manifest, settings, plan }
})

/** Bytes of every tensor by name, regardless of the owner that moves it. */
function distinctTensors(manifest: Manifest): Map<string, number> {
  const bytes = new Map<string, number>()
  for (const { tensors } of manifest.ranks) {
    for (let row = 0; row < tensors.count; row++) bytes.set(tensors.names.at(row), tensors.bytes[row]!)
  }
  return bytes
}

function bucketOf(plan: TransferPlan, manifest: Manifest, bucket: number) {
  return bucketTensors(plan, manifest, bucket).map((tensor) => ({
    ...tensor,
    offset: tensor.offset - plan.buckets.ringOffset[bucket]!,
  }))
}

describe('every plan', () => {
  it('moves each tensor exactly once, without overlap, aligned, inside its bucket', () => {
    fc.assert(
      fc.property(cases, ({ manifest, plan: make }) => {
        const plan = make()
        const expected = distinctTensors(manifest)
        const seen = new Set<string>()
        for (let bucket = 0; bucket < plan.buckets.count; bucket++) {
          const tensors = bucketOf(plan, manifest, bucket).sort((a, b) => a.offset - b.offset)
          let end = 0
          for (const { name, offset, bytes } of tensors) {
            expect(seen.has(name)).toBe(false)
            seen.add(name)
            expect(bytes).toBe(expected.get(name))
            expect(offset % 16).toBe(0)
            if (bytes === 0) continue
            expect(offset).toBeGreaterThanOrEqual(end)
            end = offset + bytes
          }
          expect(end).toBeLessThanOrEqual(plan.buckets.bytes[bucket]!)
        }
        expect(seen).toEqual(new Set(expected.keys()))
        expect(plan.totalBytes).toBe([...expected.values()].reduce((sum, bytes) => sum + bytes, 0))
      }),
      RUNS,
    )
  })

  it('keeps buckets to their size, except for one larger tensor', () => {
    fc.assert(
      fc.property(cases, ({ manifest, plan: make }) => {
        const plan = make()
        for (let bucket = 0; bucket < plan.buckets.count; bucket++) {
          const bytes = plan.buckets.bytes[bucket]!
          expect(bytes).toBeGreaterThan(0)
          if (bytes <= plan.bucketBytes) continue
          expect(bucketOf(plan, manifest, bucket).filter((tensor) => tensor.bytes > 0)).toHaveLength(1)
        }
      }),
      RUNS,
    )
  })

  it('has at most one bucket per owner and round, rounds in order, without holes', () => {
    fc.assert(
      fc.property(cases, ({ plan: make }) => {
        const { buckets, rounds } = make()
        const seen = new Set<string>()
        let last = -1
        for (let bucket = 0; bucket < buckets.count; bucket++) {
          const key = `${buckets.round[bucket]}/${buckets.owner[bucket]}`
          expect(seen.has(key)).toBe(false)
          seen.add(key)
          expect(buckets.round[bucket]! - last).toBeGreaterThanOrEqual(0)
          expect(buckets.round[bucket]! - last).toBeLessThanOrEqual(1)
          last = buckets.round[bucket]!
        }
        expect(rounds).toBe(last + 1)
      }),
      RUNS,
    )
  })

  it('orders buckets by when their owners have copied them, so that none waits behind a large tensor of another', () => {
    fc.assert(
      fc.property(cases, ({ plan: make }) => {
        const { buckets } = make()
        const copied = new Map<number, number>()
        let before = 0
        for (let bucket = 0; bucket < buckets.count; bucket++) {
          const ready = (copied.get(buckets.owner[bucket]!) ?? 0) + buckets.bytes[bucket]!
          copied.set(buckets.owner[bucket]!, ready)
          expect(ready).toBeGreaterThanOrEqual(before)
          before = ready
        }
      }),
      RUNS,
    )
  })

  it('lays buckets out so that none overwrites one that its `after` does not cover, and `after` is exact', () => {
    fc.assert(
      fc.property(cases, ({ plan: make, settings }) => {
        const { buckets, ringBytes } = make()
        expect(ringBytes).toBeLessThanOrEqual(settings.ringBytes)
        for (let bucket = 0; bucket < buckets.count; bucket++) {
          const start = buckets.ringOffset[bucket]!
          const end = start + buckets.bytes[bucket]!
          expect(start % 256).toBe(0)
          expect(end).toBeLessThanOrEqual(ringBytes)
          let last = -1
          for (let earlier = 0; earlier < bucket; earlier++) {
            const from = buckets.ringOffset[earlier]!
            // Slots are whole blocks: earlier contents are overwritten up to the block's end.
            const blockEnd = (offset: number) => Math.ceil(offset / 256) * 256
            if (from < blockEnd(end) && blockEnd(from + buckets.bytes[earlier]!) > start) last = earlier
          }
          expect(buckets.after[bucket]).toBe(last)
        }
      }),
      RUNS,
    )
  })

  it('is the same for the same input', () => {
    fc.assert(
      fc.property(cases, ({ plan: make, manifest }) => {
        const plan = make()
        expect(make()).toEqual(plan)
        // A new manifest with equal content also gives the same plan.
        const copy: Manifest = structuredCloneManifest(manifest)
        const settings = { ringBytes: RING * 4 }
        expect(planBroadcast(copy, settings)).toEqual(planBroadcast(manifest, settings))
      }),
      RUNS,
    )
  })

  it('has copies that put every byte where the engine looks for it', () => {
    fc.assert(
      fc.property(cases, ({ manifest, plan: make }) => {
        const plan = make()
        let state = 1
        const memory = manifest.ranks.map(({ segments }) =>
          segments.map(({ bytes }) =>
            Uint8Array.from({ length: bytes }, () => (state = Math.imul(state, 1103515245) + 12345) >>> 16),
          ),
        )
        const copies = manifest.ranks.map(({ rank }) => copiesFor(plan, manifest, rank))
        for (let bucket = 0; bucket < plan.buckets.count; bucket++) {
          const buffer = new Uint8Array(plan.buckets.bytes[bucket]!)
          copies.forEach((columns, rank) => {
            const [from, to] = [columns.firstCopy[bucket]!, columns.firstCopy[bucket + 1]!]
            if (rank !== plan.buckets.owner[bucket]) expect(to).toBe(from)
            for (let copy = from; copy < to; copy++) {
              const start = columns.segmentOffset[copy]!
              const source = memory[rank]![columns.segment[copy]!]!
              expect(start + columns.bytes[copy]!).toBeLessThanOrEqual(source.length)
              buffer.set(source.subarray(start, start + columns.bytes[copy]!), columns.bucketOffset[copy])
            }
          })
          const owner = plan.buckets.owner[bucket]!
          const { tensors } = manifest.ranks[owner]!
          for (let item = plan.buckets.firstItem[bucket]!; item < plan.buckets.firstItem[bucket + 1]!; item++) {
            const { segment, offset, bytes } = tensorAt(tensors, plan.items.tensor[item]!)
            const expected = memory[owner]![segment]!.subarray(offset, offset + bytes)
            const at = plan.items.bucketOffset[item]!
            expect(Buffer.compare(buffer.subarray(at, at + bytes), expected)).toBe(0)
          }
        }
      }),
      RUNS,
    )
  })
})

function structuredCloneManifest(manifest: Manifest): Manifest {
  return {
    ...manifest,
    ranks: manifest.ranks.map((rank) => ({ ...rank, tensors: { ...rank.tensors, offsets: rank.tensors.offsets.slice() } })),
  }
}

const tensor = (name: string, bytes: number, more: { gap?: number; jump?: boolean } = {}) =>
  ({ name, dtype: 'U8', shape: [bytes], gap: 0, jump: false, ...more }) as const

describe('planWithin', () => {
  it('lets ranks of one host copy what they hold, and pull the rest once, in equal parts', () => {
    const hosts = fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 6, maxLength: 6 })
    fc.assert(
      fc.property(manifests, options, hosts, (manifest, chosen, places) => {
        const own = manifest.ranks.map(({ rank }) => rank).filter((rank) => places[rank] === places[0])
        const plan = planWithin(manifest, { ...withoutUndefined(chosen), ranks: own })
        const held = new Set<string>()
        for (const rank of own)
          for (const name of distinctTensors({ ...manifest, ranks: [manifest.ranks[rank]!] }).keys()) held.add(name)
        const pulled = new Map(own.map((rank) => [rank, 0]))
        let largest = 0
        for (let bucket = 0; bucket < plan.buckets.count; bucket++) {
          const [owner, receiver] = [plan.buckets.owner[bucket]!, plan.buckets.receiver[bucket]!]
          if (own.includes(owner)) expect(receiver).toBe(owner)
          else {
            pulled.set(receiver, pulled.get(receiver)! + plan.buckets.bytes[bucket]!)
            largest = Math.max(largest, plan.buckets.bytes[bucket]!)
          }
          for (const { name } of bucketTensors(plan, manifest, bucket)) expect(own.includes(owner)).toBe(held.has(name))
        }
        expect(Math.max(...pulled.values()) - Math.min(...pulled.values())).toBeLessThanOrEqual(largest)
      }),
      RUNS,
    )
  })
})

describe('planBroadcast', () => {
  it('makes a bucket of contiguous tensors one copy', () => {
    const manifest = manifestOf([Array.from({ length: 20 }, (_, index) => tensor(`t${index}`, 64))])
    const plan = planBroadcast(manifest, { ringBytes: RING, preferredBucketBytes: 1024 })
    expect(plan.buckets.count).toBe(2)
    expect(Array.from(copiesFor(plan, manifest, 0).bytes)).toEqual([1024, 256])
  })

  it('splits the copy where staying contiguous would break alignment', () => {
    const manifest = manifestOf([[tensor('a', 8), tensor('b', 32), tensor('c', 32)]])
    const plan = planBroadcast(manifest, { ringBytes: RING, preferredBucketBytes: 1024 })
    expect(Array.from(plan.items.bucketOffset)).toEqual([0, 256, 288])
    expect(copiesFor(plan, manifest, 0).count).toBe(2)
  })

  it('carries a tensor larger than the preferred bucket', () => {
    const manifest = manifestOf([[tensor('a', 100), tensor('big', 5000), tensor('b', 100)], [tensor('c', 100)]])
    const plan = planBroadcast(manifest, { ringBytes: 8192, preferredBucketBytes: 1024, minBucketBytes: 256 })
    expect(plan.mode).toBe('pipelined')
    expect(Array.from(plan.buckets.bytes)).toContain(5000)
  })

  it('names the tensor that the ring cannot hold', () => {
    const manifest = manifestOf([[tensor('a', 100), tensor('big', 5000)]])
    const attempt = () => planBroadcast(manifest, { ringBytes: 4096 })
    expect(attempt).toThrow(expect.objectContaining({ code: 'PLAN_INFEASIBLE', fields: { tensor: 'big', field: 'ringBytes' } }))
  })

  it('goes serial, and says why, when the ring cannot hold three buckets', () => {
    const manifest = manifestOf([Array.from({ length: 30 }, (_, index) => tensor(`t${index}`, 1000))])
    const plan = planBroadcast(manifest, { ringBytes: 2048 })
    expect(plan.mode).toBe('serial')
    expect(plan.modeReason).toBe('the ring of 2048 bytes holds 1 bucket of 2048 bytes; the pipeline needs 3')
    expect(planBroadcast(manifest, { ringBytes: 8192, minBucketBytes: 512 }).mode).toBe('pipelined')
  })

  it('takes no more ring than the whole checkpoint needs', () => {
    const manifest = manifestOf([[tensor('a', 1000)], [tensor('b', 500)]])
    const plan = planBroadcast(manifest, { ringBytes: 2 ** 30 })
    expect(plan.ringBytes).toBe(1024 + 512)
    expect(plan.mode).toBe('pipelined')
    expect(plan.rounds).toBe(1)
  })

  it('works with nothing to move, with empty tensors alone, and with ranks that hold nothing', () => {
    expect(planBroadcast(manifestOf([[], []]), { ringBytes: RING })).toMatchObject({
      rounds: 0,
      totalBytes: 0,
      mode: 'pipelined',
    })
    const plan = planBroadcast(manifestOf([[], [tensor('empty', 0)]]), { ringBytes: RING })
    expect(plan.buckets.count).toBe(1)
    expect(plan.items.count).toBe(1)
  })

  it('balances owners over replicas', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 5000 }), { minLength: 1, maxLength: 60 }),
        fc.integer({ min: 1, max: 6 }),
        fc.array(fc.integer({ min: 0, max: 20_000 }), { minLength: 6, maxLength: 6 }),
        (sizes, ranks, own) => {
          const replicated = sizes.map((bytes, index) => tensor(`t${index}`, bytes))
          const manifest = manifestOf(
            Array.from({ length: ranks }, (_, rank) => [tensor(`own${rank}`, own[rank]!), ...replicated]),
          )
          const plan = planBroadcast(manifest, { ringBytes: RING })
          const load = new Float64Array(ranks)
          for (let bucket = 0; bucket < plan.buckets.count; bucket++) {
            for (const { bytes } of bucketTensors(plan, manifest, bucket)) load[plan.buckets.owner[bucket]!]! += bytes
          }
          const total = load.reduce((sum, bytes) => sum + bytes, 0)
          expect(total).toBe(plan.totalBytes)
          // No owner exceeds both the mean and what it alone holds by more than one tensor.
          for (let rank = 0; rank < ranks; rank++) {
            const least = Math.max(own[rank]!, level(own.slice(0, ranks), total))
            expect(load[rank]!).toBeLessThanOrEqual(least + Math.max(...sizes))
          }
        },
      ),
      { examples: [[[267, 133], 5, [7, 1108, 125, 0, 1, 0]]] },
    )
  })

  it('balances owners over instances that hold everything, each in shares of its own', () => {
    const instances = fc.array(fc.integer({ min: 1, max: 8 }), { minLength: 2, maxLength: 3 })
    const sizes = fc.array(fc.integer({ min: 1000, max: 1500 }), { minLength: 800, maxLength: 800 })
    fc.assert(
      fc.property(instances, sizes, (ranks, tensors) => {
        const shares = ranks.flatMap((count, instance) =>
          Array.from({ length: count }, (_, rank) =>
            // The first ranks in one run each, those that joined in interleaved runs.
            tensors.flatMap((bytes, index) => {
              const at =
                instance === 0 ? Math.floor((index * count) / tensors.length) : Math.floor(index / (3 + instance)) % count
              return at === rank ? tensor(`t${index}`, bytes) : []
            }),
          ),
        )
        const plan = planP2p(manifestOf(shares), { ringBytes: RING, ranks: [0], joining: true })
        const load = new Float64Array(shares.length)
        plan.buckets.owner.forEach((owner, bucket) => (load[owner]! += plan.buckets.bytes[bucket]!))
        expect(Math.max(...load)).toBeLessThan((1.1 * load.reduce((sum, bytes) => sum + bytes, 0)) / load.length)
      }),
      // Groups of three tensors that three ranks hold: each rank's excess or deficit must not add up.
      { numRuns: 20, examples: [[[4, 8, 8], Array.from({ length: 800 }, (_, index) => 1000 + ((index * 197) % 501))]] },
    )
  })

  it.each([true, false])('refuses replicas that differ, naming tensor and ranks (names hashed: %s)', (hashed) => {
    const other = { ...tensor('same', 64), shape: [32, 2] }
    const manifest = manifestOf([[tensor('x', 1)], [tensor('same', 64)], [other]], { hashed })
    const attempt = () => planBroadcast(manifest, { ringBytes: RING })
    expect(attempt).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', fields: { tensor: 'same', ranks: [1, 2] } }))
    expect(attempt).toThrow('tensor same: U8 [64] on rank 1, but U8 [32, 2] on rank 2')
    const bytes = manifestOf([[tensor('same', 64)], [tensor('same', 64)]], { hashed })
    const ranks = bytes.ranks.map((rank, index) => ({
      ...rank,
      tensors: { ...rank.tensors, digests: BigUint64Array.of(BigInt(index)) },
    }))
    expect(() => planBroadcast({ ...bytes, ranks }, { ringBytes: RING })).toThrow('bytes on rank 1 differ from those on rank 0')
    const twice = manifestOf([[tensor('x', 1), tensor('x', 1)]], { hashed })
    expect(() => planBroadcast(twice, { ringBytes: RING })).toThrow('registered twice by rank 0')
  })

  it('lets only the ranks that take part own tensors', () => {
    const shared = tensor('shared', 64)
    const manifest = manifestOf([[shared], [shared, tensor('mine', 64)], []])
    const plan = planBroadcast(manifest, { ringBytes: RING, ranks: [1, 2, 1] })
    expect(plan.ranks).toEqual([1, 2])
    expect(Array.from(plan.buckets.owner)).toEqual([1])
    expect(() => planBroadcast(manifest, { ringBytes: RING, ranks: [0] })).toThrow(/mine is only held by rank 1/)
  })

  it.each([
    [{ ringBytes: 0 }, 'ringBytes'],
    [{ ringBytes: RING, preferredBucketBytes: 1.5 }, 'preferredBucketBytes'],
    [{ ringBytes: RING, chunkBytes: -1 }, 'chunkBytes'],
    [{ ringBytes: RING, ranks: [] }, 'ranks'],
    [{ ringBytes: RING, ranks: [7] }, 'ranks'],
  ])('refuses %o', (wrong, field) => {
    const attempt = () => planBroadcast(manifestOf([[tensor('a', 1)]]), wrong)
    expect(attempt).toThrow(CkptError)
    expect(attempt).toThrow(expect.objectContaining({ fields: expect.objectContaining({ field }) as unknown }))
  })
})

/** Lowest level to which the smallest of `own` can be raised so that the sum is `total`. */
function level(own: readonly number[], total: number): number {
  let [low, high] = [0, total]
  for (let step = 0; step < 60; step++) {
    const middle = (low + high) / 2
    if (own.reduce((sum, bytes) => sum + Math.max(bytes, middle), 0) > total) high = middle
    else low = middle
  }
  return high
}
