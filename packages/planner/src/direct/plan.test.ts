import { CkptError, tensorTable, type Manifest, type Recording, type Route, type StridedCopies } from '@ckpt/contract'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { planDirect, type DirectPlan } from './plan.ts'
import { subsetOf } from './subset.ts'

const ROWS = 6
const COLUMNS = 8

interface World {
  readonly manifest: Manifest
  readonly recordings: readonly Recording[]
  /** Bytes of each rank's single segment. */
  readonly memories: readonly Uint8Array[]
}

/** How a worker stores its part of a tensor of ROWS x COLUMNS bytes. */
type Cut = 'rows' | 'columns' | 'whole' | 'none' | 'transposed' | 'repeated' | 'opaque'

function routesFor(cut: Cut, tensor: number, rank: number, ranks: number, at: number): { routes: Route[]; bytes: number } {
  const base = { tensor, storage: 0, destinationOffset: at }
  const half = COLUMNS / 2
  switch (cut) {
    case 'whole':
      return { routes: [{ ...base, sourceOffset: 0, rowBytes: ROWS * COLUMNS, dims: [] }], bytes: ROWS * COLUMNS }
    case 'rows': {
      const rows = ROWS / 2
      const sourceOffset = (rank % 2) * rows * COLUMNS
      return { routes: [{ ...base, sourceOffset, rowBytes: rows * COLUMNS, dims: [] }], bytes: rows * COLUMNS }
    }
    case 'columns':
      return {
        routes: [{ ...base, sourceOffset: (rank % 2) * half, rowBytes: half, dims: [ROWS, COLUMNS, half] }],
        bytes: ROWS * half,
      }
    case 'transposed':
      return {
        routes: [{ ...base, sourceOffset: 0, rowBytes: 1, dims: [COLUMNS, 1, ROWS, ROWS, COLUMNS, 1] }],
        bytes: ROWS * COLUMNS,
      }
    case 'repeated':
      // One row for every row of the parameter, as in an expanded copy.
      return {
        routes: [{ ...base, sourceOffset: 0, rowBytes: COLUMNS, dims: [ranks + 1, 0, COLUMNS] }],
        bytes: COLUMNS * (ranks + 1),
      }
    default:
      return { routes: [], bytes: 0 }
  }
}

function world(cuts: readonly Cut[], ranks: number, owners: readonly number[], storageGap: number): World {
  const memories = Array.from({ length: ranks }, () => new Uint8Array(cuts.length * (ROWS * COLUMNS + 16) + 16))
  const metas = memories.map((memory, rank) => {
    let end = 0
    const tensors = cuts.flatMap((_, index) => {
      if (owners[index]! % ranks !== rank) return []
      const offset = end
      end += ROWS * COLUMNS + (index % 3 === 0 ? 16 : 0)
      for (let i = 0; i < ROWS * COLUMNS; i++) memory[offset + i] = (index * 53 + i * 7 + 1) & 0xff
      return [{ name: `t${index}`, dtype: 'U8' as const, shape: [ROWS, COLUMNS], bytes: ROWS * COLUMNS, segment: 0, offset }]
    })
    const segments = [{ bytes: memory.length, kind: 'file' as const }]
    return { rank, host: 'h', deviceUuid: `d${rank}`, segments, tensors: tensorTable(tensors), digest: `${rank}` }
  })
  const recordings = memories.map((_, rank): Recording => {
    let at = 0
    const routes: Route[] = []
    cuts.forEach((cut, tensor) => {
      const added = routesFor(cut, tensor, rank, ranks, at)
      routes.push(...added.routes)
      at += added.bytes + (tensor % 2 === 1 ? storageGap : 0)
    })
    return {
      id: `r${rank}`,
      tensors: cuts.map((_, index) => ({ name: `t${index}`, dtype: 'U8', shape: [ROWS, COLUMNS] })),
      storages: [at + 1],
      parameters: [],
      routes,
      opaque: cuts.flatMap((cut, tensor) => (cut === 'opaque' && rank === 0 ? [{ tensor, reason: 'cast' }] : [])),
    }
  })
  return { manifest: { checkpoint: 'c', digest: 'm', ranks: metas }, recordings, memories }
}

/** Runs copies, and counts how often each byte is written. */
function run(
  copies: StridedCopies,
  sources: readonly Uint8Array[],
  targets: readonly Uint8Array[],
  counts: readonly Uint8Array[],
): void {
  for (const {
    source,
    sourceOffset,
    sourcePitch,
    destination,
    destinationOffset,
    destinationPitch,
    rowBytes,
    rows,
  } of copies) {
    for (let row = 0; row < rows; row++) {
      const [from, to] = [sourceOffset + row * sourcePitch, destinationOffset + row * destinationPitch]
      for (let i = 0; i < rowBytes; i++) {
        targets[destination]![to + i] = sources[source]![from + i]!
        counts[destination]![to + i]!++
      }
    }
  }
}

/** Contents of every rank's storage after the plan, checked to write every byte exactly once. */
function execute({ recordings, memories }: World, plan: DirectPlan): Uint8Array[] {
  const storages = recordings.map(({ storages: [bytes] }) => new Uint8Array(bytes!))
  const counts = recordings.map(({ storages: [bytes] }) => new Uint8Array(bytes!))
  for (const [rank, own] of plan.ranks) {
    const sources = own.sources.map((source) => memories[source.rank]!)
    run(own.copies, sources, [storages[rank]!], [counts[rank]!])
  }
  for (const [rank, own] of plan.ranks) {
    const targets = own.targets.map((target) => storages[target.rank]!)
    run(
      own.forwards,
      [storages[rank]!],
      targets,
      own.targets.map((target) => counts[target.rank]!),
    )
  }
  const opaque = new Set(plan.opaque.map(({ name }) => name))
  recordings.forEach((recording, rank) => {
    const wanted = new Uint8Array(counts[rank]!.length)
    for (const route of recording.routes) {
      if (!opaque.has(recording.tensors[route.tensor]!.name)) each(route, (_, to) => (wanted[to] = 1))
    }
    expect(counts[rank]).toEqual(wanted)
  })
  return storages
}

/** Every byte of a route: its offset in the tensor and in the storage. */
function each({ sourceOffset, destinationOffset, rowBytes, dims }: Route, visit: (from: number, to: number) => void): void {
  const walk = (dim: number, from: number, to: number): void => {
    if (dim === dims.length) {
      for (let i = 0; i < rowBytes; i++) visit(from + i, to + i)
      return
    }
    for (let step = 0; step < dims[dim]!; step++) walk(dim + 3, from + step * dims[dim + 1]!, to + step * dims[dim + 2]!)
  }
  walk(0, sourceOffset, destinationOffset)
}

const cut = fc.constantFrom<Cut>('rows', 'columns', 'whole', 'none', 'transposed', 'repeated', 'opaque')

describe('a direct plan', () => {
  it('brings every byte that a worker needs to its place exactly once, however it is merged and handed on', () => {
    fc.assert(
      fc.property(
        fc.array(cut, { minLength: 1, maxLength: 9 }),
        fc.integer({ min: 1, max: 3 }),
        fc.array(fc.nat(5), { minLength: 9, maxLength: 9 }),
        fc.constantFrom(0, 5),
        fc.boolean(),
        (cuts, ranks, owners, gap, forward) => {
          const given = world(cuts, ranks, owners, gap)
          const options = { ranks: given.recordings.map((recording, rank) => ({ rank, recording })), forward }
          const plan = planDirect(given.manifest, options)
          const storages = execute(given, plan)
          const opaque = new Set(plan.opaque.map(({ name }) => name))
          given.recordings.forEach((recording, rank) => {
            let needed = 0
            for (const route of recording.routes) {
              const { name } = recording.tensors[route.tensor]!
              if (opaque.has(name)) continue
              each(route, (from, to) => {
                expect(storages[rank]![to]).toBe((route.tensor * 53 + from * 7 + 1) & 0xff)
                needed++
              })
            }
            expect(plan.ranks.get(rank)!.neededBytes).toBe(needed)
          })
          const sum = (field: 'neededBytes' | 'h2dBytes' | 'forwardBytes') =>
            [...plan.ranks.values()].reduce((all, own) => all + own[field], 0)
          expect(sum('h2dBytes')).toBe(plan.uniqueBytes)
          expect(sum('neededBytes')).toBe(sum('h2dBytes') + sum('forwardBytes'))
          if (!forward) expect(sum('forwardBytes')).toBe(0)
          expect(plan.opaque.map(({ name }) => name)).toEqual(
            cuts.flatMap((one, i) => (one === 'opaque' ? [`t${i}`] : [])).sort(),
          )
          expect(planDirect(given.manifest, options)).toEqual(plan)
        },
      ),
      { numRuns: 300 },
    )
  })

  it('joins what runs on, reads memory in order, and shares out what several ranks need', () => {
    const cuts: Cut[] = ['whole', 'whole', 'whole', 'whole']
    const given = world(cuts, 2, [0, 0, 1, 1], 0)
    // No gaps between tensors 1 and 2 of a rank's memory on either side: one copy for each rank.
    const plan = planDirect(given.manifest, { ranks: given.recordings.map((recording, rank) => ({ rank, recording })) })
    const [first, second] = [plan.ranks.get(0)!, plan.ranks.get(1)!]
    expect(first.h2dBytes).toBe(second.h2dBytes)
    expect(first.h2dBytes + second.h2dBytes).toBe(4 * ROWS * COLUMNS)
    expect(first.forwardBytes).toBe(first.h2dBytes)
    for (const { copies } of [first, second]) {
      const order = Array.from(copies, ({ source, sourceOffset }) => source * 1e6 + sourceOffset)
      expect(order).toEqual([...order].sort((a, b) => a - b))
    }
    const alone = planDirect(given.manifest, { ranks: [{ rank: 0, recording: given.recordings[0]! }] })
    expect(alone.ranks.get(0)!.copies.count).toBeLessThan(4)
  })

  it('says why a checkpoint does not fit what was recorded, by tensor and rank', () => {
    const given = world(['whole', 'rows'], 1, [0, 0], 0)
    const [recording] = given.recordings
    const fails = (changes: Partial<Recording>, text: string) => {
      const ranks = [{ rank: 0, recording: { ...recording!, ...changes } }]
      expect(() => planDirect(given.manifest, { ranks })).toThrow(text)
      try {
        planDirect(given.manifest, { ranks })
      } catch (error) {
        expect(CkptError.is(error, 'PLAN_INFEASIBLE')).toBe(true)
      }
    }
    fails({ tensors: recording!.tensors.slice(0, 1), routes: [] }, 'tensor t1 was not in the recorded checkpoint')
    fails({ tensors: [...recording!.tensors, { name: 'x', dtype: 'U8', shape: [] }] }, 'lacks tensor x')
    fails({ tensors: [{ name: 't0', dtype: 'U8', shape: [2] }, recording!.tensors[1]!] }, 'tensor t0 is U8 [6, 8]')
  })

  it('refuses memory of another host', () => {
    const given = world(['whole'], 2, [1], 0)
    const manifest = { ...given.manifest, ranks: given.manifest.ranks.map((metas) => ({ ...metas, host: `h${metas.rank}` })) }
    expect(() => planDirect(manifest, { ranks: [{ rank: 0, recording: given.recordings[0]! }] })).toThrow(/a different host/)
  })
})

it('a subset of a manifest keeps what it names, with a digest of its own', () => {
  const { manifest } = world(['whole', 'rows', 'whole'], 2, [0, 1, 0], 0)
  const subset = subsetOf(manifest, new Set(['t2']))
  expect(subset.ranks.map(({ tensors }) => Array.from({ length: tensors.count }, (_, i) => tensors.names.at(i)))).toEqual([
    ['t2'],
    [],
  ])
  expect(subset.digest).not.toBe(manifest.digest)
  expect(subset.digest).not.toBe(subsetOf(manifest, new Set(['t1'])).digest)
})
