import { createHost, Presence, type Beacon } from '@ckpt/transport'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { groupsOf } from './groups.ts'
import { Nearness, provenHosts, type Whereabouts } from './nearness.ts'

const host = createHost()

/** All-gathers of ranks in this process; `lie` may change what a rank sends. */
function world(size: number, lie: (rank: number, key: string, value: unknown, all: ReadonlyMap<string, unknown[]>) => unknown) {
  const said = new Map<string, unknown[]>()
  const waiting = new Map<string, (() => void)[]>()
  return (rank: number) =>
    async <T>(key: string, value: T): Promise<T[]> => {
      const values = said.get(key) ?? []
      said.set(key, values)
      values[rank] = lie(rank, key, value, said)
      const list = waiting.get(key) ?? []
      waiting.set(key, list)
      if (Object.keys(values).length === size) for (const wake of list) wake()
      else await new Promise<void>((resolve) => list.push(resolve))
      return values as T[]
    }
}

async function settle(
  size: number,
  change: (rank: number, near: Whereabouts, all: readonly Whereabouts[]) => Whereabouts,
  lie: (rank: number, key: string, value: unknown, all: ReadonlyMap<string, unknown[]>) => unknown = (_, __, value) => value,
): Promise<ReadonlyMap<number, number>[]> {
  const ranks = Array.from({ length: size }, () => new Nearness(host))
  const honest = await Promise.all(ranks.map((rank) => rank.whereabouts()))
  const located = honest.map((near, rank) => ({ rank, near: change(rank, near, honest) }))
  const gather = world(size, lie)
  const groups = await Promise.all(ranks.map((one, rank) => one.groups(located, rank, gather(rank))))
  await Promise.all(ranks.map((rank) => rank.close()))
  return groups
}
const together = (groups: ReadonlyMap<number, number>, a: number, b: number): boolean => groups.get(a) === groups.get(b)

describe('ranks that say they share memory', () => {
  it('are believed when they have read it', async () => {
    for (const groups of await settle(4, (_, near) => near)) expect([...groups.values()]).toEqual([0, 0, 0, 0])
  })

  it.for([
    ['without a beacon', (near: Whereabouts) => ({ ...near, beacon: null })],
    ['with the beacon of another rank', (_: Whereabouts, all: readonly Whereabouts[]) => all[0]!],
    ['of another boot', (near: Whereabouts) => ({ ...near, beacon: { ...near.beacon!, boot: 'x' } })],
    ['whose beacon is another object', (near: Whereabouts) => ({ ...near, beacon: { ...near.beacon!, inode: '1' } })],
    ['whose beacon is not there', (near: Whereabouts) => ({ ...near, beacon: { ...near.beacon!, name: 'ckpt-none' } })],
    ['whose beacon is a path', (near: Whereabouts) => ({ ...near, beacon: { ...near.beacon!, name: '../../etc/passwd' } })],
  ] as const)('%s are near nobody', async ([, change]) => {
    const outcomes = await settle(4, (rank, near, all) => (rank === 2 ? change(near, all) : near))
    for (const groups of [outcomes[0]!, outcomes[1]!, outcomes[3]!]) {
      expect(together(groups, 0, 1) && together(groups, 0, 3)).toBe(true)
      expect([0, 1, 3].some((rank) => together(groups, rank, 2))).toBe(false)
    }
  })

  it.for(['made up', 'copied from a rank that could', 'null', 'no text'])(
    'by a proof that is %s are near nobody',
    async (how) => {
      const outcomes = await settle(
        4,
        (_, near) => near,
        (rank, key, value, all) => {
          if (rank !== 2) return value
          if (key !== 'near/proofs') return [true, true, true, true]
          const copied = all.get('near/proofs')?.find((one) => Array.isArray(one)) as unknown[] | undefined
          const made = { 'made up': 'AAAA', 'copied from a rank that could': null, null: null, 'no text': 7 }[how]
          return [0, 1, 2, 3].map((to) => (how.startsWith('copied') ? (copied?.[to] ?? 'AAAA') : made))
        },
      )
      for (const groups of outcomes) expect([0, 1, 3].some((rank) => together(groups, rank, 2))).toBe(false)
    },
  )

  it('prove it to each rank by itself', async () => {
    const [a, b, c] = await Promise.all([1, 2, 3].map(() => Presence.open(host)))
    const proof = await a!.proveTo(b!.beacon)
    expect(b!.proves(proof, a!.beacon)).toBe(true)
    const others: [Presence, Beacon][] = [
      [b!, c!.beacon],
      [c!, a!.beacon],
      [a!, b!.beacon],
    ]
    for (const [to, by] of others) expect(to.proves(proof, by)).toBe(false)
    for (const one of [a!, b!, c!]) one.close()
    expect(await a!.proveTo(b!.beacon)).toBeNull()
  })
})

describe('groups', () => {
  it('are those of honest ranks, whatever others say', () => {
    const members = fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 9 })
    fc.assert(
      fc.property(members, fc.infiniteStream(fc.constantFrom(true, false, 'true', 1, null)), fc.nat(), (hosts, stream, who) => {
        const liar = who % (hosts.length + 1)
        const rows = hosts.map((own, a) =>
          hosts.map((other, b): unknown => {
            // No honest rank believes the liar, whose own row may be anything.
            if (a === liar) return stream.next().value
            return a !== b && b !== liar && own === other
          }),
        )
        const groups = groupsOf(
          hosts.map((_, rank) => rank),
          rows,
        )
        for (const [a, own] of hosts.entries()) {
          for (const [b, other] of hosts.entries()) {
            if (a === b) continue
            const honest = a !== liar && b !== liar && own === other
            expect(groups.get(a) === groups.get(b)).toBe(honest)
          }
        }
      }),
    )
  })

  it('make hosts of what ranks say and have proved', () => {
    const ranks = ['a', 'a', 'b', 'a'].map((name, rank) => ({ rank, host: name }) as never)
    const manifest = provenHosts({ checkpoint: 'c', digest: 'd', ranks }, new Map([[0, 0], [1, 0], [2, 0], [3, 1]])) // prettier-ignore
    const hosts = manifest.ranks.map((one) => one.host)
    expect(hosts[0]).toBe(hosts[1])
    expect(new Set(hosts).size).toBe(3)
  })
})
