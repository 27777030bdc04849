import { DTYPES, SUM_COLUMNS, tensorTable, type Manifest, type Recording, type Route } from '@ckpt/contract'
import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { digestOfSum, expectedSums, registeredTensors } from './digests.ts'
import { isPartition } from './partition.ts'
import { findMismatch, planVerify } from './plan.ts'
import { decodeReading, encodeReading } from './reading.ts'
import { comparedInRing } from './ring-check.ts'
import { parameterSums, regionBytes, regionOf, sourceSums } from './region.ts'

const MASK = (1n << 64n) - 1n
const GOLDEN = 0x9e3779b97f4a7c15n

/** The formula of docs/worker-protocol.md, one unit at a time. */
function sum(memories: readonly Buffer[], rows: Float64Array, outputs: number): BigUint64Array {
  const sums = new BigUint64Array(outputs)
  for (let at = 0; at < rows.length; at += SUM_COLUMNS) {
    const [output, memory, offset, pitch, rowBytes, count, position, positionPitch, unit] = rows.subarray(
      at,
    ) as never as number[]
    for (let row = 0; row < count!; row++) {
      for (let column = 0; column < rowBytes!; column += unit!) {
        const place = position! + row * positionPitch! + column
        let value = 0n
        for (let i = 0; i < unit!; i++) {
          value |= BigInt(memories[memory!]![offset! + row * pitch! + column + i]!) << BigInt(8 * ((place % 8) + i))
        }
        sums[output!]! += mix((value + BigInt(Math.floor(place / 8) + 1) * GOLDEN) & MASK)
      }
    }
  }
  return sums
}

function mix(value: bigint): bigint {
  let x = value
  for (let i = 0; i < 2; i++) x = ((x ^ (x >> 32n)) * 0xd6e8feb86659fd93n) & MASK
  return x ^ (x >> 32n)
}

function digest(bytes: Buffer): bigint {
  const whole = Buffer.concat([bytes, Buffer.alloc((8 - (bytes.length % 8)) % 8)])
  let total = 0n
  for (let i = 0; i < whole.length; i += 8) total += mix((whole.readBigUInt64LE(i) + BigInt(i / 8 + 1) * GOLDEN) & MASK)
  return digestOfSum(bytes.length, total & MASK)
}

/** How the workers of a group store one tensor of `rows` × `columns` elements of `size` bytes. */
type Way = 'rows' | 'columns' | 'whole' | 'transposed' | 'twice' | 'first alone' | 'halves of one'

interface Case {
  readonly tensors: readonly {
    readonly rows: number
    readonly columns: number
    readonly size: 1 | 2 | 4 | 8
    readonly way: Way
  }[]
  readonly workers: number
  readonly seed: number
}

const cases: fc.Arbitrary<Case> = fc.record({
  tensors: fc.array(
    fc.record({
      rows: fc.integer({ min: 1, max: 6 }),
      columns: fc.integer({ min: 1, max: 12 }),
      size: fc.constantFrom(1, 2, 4, 8),
      way: fc.constantFrom<Way>('rows', 'columns', 'whole', 'transposed', 'twice', 'first alone', 'halves of one'),
    }),
    { minLength: 1, maxLength: 5 },
  ),
  workers: fc.integer({ min: 1, max: 3 }),
  seed: fc.integer({ min: 1, max: 2 ** 30 }),
})

/** Part `index` of `count` parts of nearly equal size: [first, end). */
const part = (length: number, index: number, count: number) =>
  [Math.floor((length * index) / count), Math.floor((length * (index + 1)) / count)] as const

/** A simulated cluster: what was registered, what each worker stores where, and the memories of both. */
function build({ tensors, workers, seed }: Case) {
  let state = seed
  const random = (bytes: number) =>
    Buffer.from(Array.from({ length: bytes }, () => (state = (state * 48271) % 0x7fffffff) & 0xff))
  const sources = tensors.map(({ rows, columns, size }) => random(rows * columns * size))
  const metas = sources.map((data, i) => {
    const offset = sources.slice(0, i).reduce((end, { length }) => end + length, 0)
    return {
      name: `t${i}`,
      dtype: DTYPES.find((d) => d === 'U8')!,
      shape: [data.length],
      bytes: data.length,
      segment: 0,
      offset,
    }
  })
  const table = tensorTable(metas, BigUint64Array.from(sources, digest))
  const segment = Buffer.concat(sources)
  const manifest: Manifest = {
    checkpoint: 'c',
    digest: 'm',
    ranks: [
      {
        rank: 0,
        host: 'h',
        deviceUuid: 'd',
        digest: 'r',
        segments: [{ bytes: segment.length, kind: 'anonymous' }],
        tensors: table,
      },
    ],
  }
  const recordings = Array.from({ length: workers }, (_, worker): Recording => {
    const routes: Route[] = []
    let end = 1 + worker // parameters begin at odd places, too
    tensors.forEach(({ rows, columns, size, way }, tensor) => {
      const add = (sourceOffset: number, rowBytes: number, dims: number[]) => {
        routes.push({ tensor, storage: 0, sourceOffset, destinationOffset: end, rowBytes, dims })
        let span = rowBytes
        for (let at = 0; at < dims.length; at += 3) span += (dims[at]! - 1) * dims[at + 2]!
        end += span + 3
      }
      const pitch = columns * size
      const [firstRow, lastRow] = part(rows, worker, workers)
      const [firstColumn, lastColumn] = part(columns, worker, workers)
      if (way === 'whole' || way === 'twice' || (way === 'first alone' && worker === 0)) add(0, rows * pitch, [])
      if (way === 'twice') add(0, rows * pitch, [])
      if (way === 'rows' && lastRow > firstRow) add(firstRow * pitch, (lastRow - firstRow) * pitch, [])
      if (way === 'columns' && lastColumn > firstColumn) {
        const bytes = (lastColumn - firstColumn) * size
        add(firstColumn * size, bytes, rows === 1 ? [] : [rows, pitch, bytes + 5])
      }
      if (way === 'transposed') add(0, size, [columns, size, rows * size, rows, pitch, size])
      if (way === 'halves of one' && worker === 0) {
        const middle = Math.floor(rows / 2) * pitch
        if (middle > 0) add(0, middle, [])
        add(middle, rows * pitch - middle, [])
      }
    })
    return {
      id: `w${worker}`,
      tensors: metas.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
      storages: [end + 8],
      parameters: [],
      routes,
      opaque: [],
    }
  })
  const parameters = recordings.map(({ storages, routes }) => {
    const memory = random(storages[0]!)
    for (const { tensor, sourceOffset, destinationOffset, rowBytes, dims } of routes) {
      eachRow(dims, (source, destination) => {
        const from = sourceOffset + source
        sources[tensor]!.copy(memory, destinationOffset + destination, from, from + rowBytes)
      })
    }
    return memory
  })
  return { manifest, sources, segment, recordings, parameters }
}

function eachRow(
  dims: readonly number[],
  each: (source: number, destination: number) => void,
  source = 0,
  destination = 0,
): void {
  if (dims.length === 0) each(source, destination)
  else for (let i = 0; i < dims[0]!; i++) eachRow(dims.slice(3), each, source + i * dims[1]!, destination + i * dims[2]!)
}

/** The joint check of all ranks. */
function check({ manifest, segment, recordings, parameters }: ReturnType<typeof build>, present = new Set([0])) {
  const tensors = registeredTensors(manifest)
  const readings = recordings.map((recording, rank) => decodeReading(rank, encodeReading(recording, tensors), tensors))
  const plan = planVerify(tensors, readings, present)
  const sums = recordings.map((one, i) => sum([parameters[i]!], parameterSums(one), one.routes.length))
  const vouched = new Map(
    [...plan.vouchers].map(([rank, vouchers]) => {
      let outputs = 0
      const table = manifest.ranks[0]!.tensors
      const rows = vouchers.flatMap(({ tensor, regions }) =>
        regions.flatMap((region) => [...sourceSums(region, outputs++, 0, table.offsets[tensors.holders[tensor]!.row]!)]),
      )
      return [rank, sum([segment], Float64Array.from(rows), outputs)] as const
    }),
  )
  return { plan, tensors, mismatch: findMismatch(plan, expectedSums(tensors)!, readings, sums, vouched) }
}

describe('parameters held against what was registered', () => {
  it('are right where every worker keeps what the routes say, whatever they keep', () => {
    fc.assert(
      fc.property(cases, (given) => {
        const world = build(given)
        const { mismatch, plan } = check(world)
        expect(mismatch).toBeUndefined()
        expect(plan.unchecked).toEqual([])
        expect(plan.bytes).toBe(
          world.recordings.flatMap(({ routes }) => routes).reduce((n, r) => n + regionBytes(regionOf(r)), 0),
        )
      }),
      { numRuns: 300 },
    )
  })

  it('are wrong, and the tensor and worker are named, as soon as any byte of any parameter differs', () => {
    fc.assert(
      fc.property(cases, fc.nat(), fc.integer({ min: 1, max: 255 }), (given, at, flip) => {
        const world = build(given)
        const kept = world.recordings.flatMap(({ routes }, worker) => routes.map((route) => ({ worker, route })))
        fc.pre(kept.length > 0)
        const { worker, route } = kept[at % kept.length]!
        let place = route.destinationOffset + (at % route.rowBytes)
        for (let i = 0; i < route.dims.length; i += 3) place += (at % route.dims[i]!) * route.dims[i + 2]!
        world.parameters[worker]![place]! ^= flip
        const { mismatch, tensors } = check(world)
        expect(tensors.names[mismatch!.tensor]).toBe(`t${route.tensor}`)
        expect(mismatch!.ranks).toContain(worker)
      }),
      { numRuns: 300 },
    )
  })

  it('are wrong where the registered bytes themselves changed, or a copy was left out, or went elsewhere in its tensor', () => {
    fc.assert(
      fc.property(cases, fc.nat(), fc.constantFrom('source', 'dropped', 'shifted'), (given, at, fault) => {
        const world = build(given)
        const kept = world.recordings.flatMap(({ routes }, worker) => routes.map((route) => ({ worker, route })))
        fc.pre(kept.length > 0)
        const { worker, route } = kept[at % kept.length]!
        const before = Buffer.from(world.parameters[worker]!)
        const source = world.sources[route.tensor]!
        eachRow(route.dims, (from, to) => {
          const row = world.parameters[worker]!.subarray(
            route.destinationOffset + to,
            route.destinationOffset + to + route.rowBytes,
          )
          if (fault === 'dropped') row.fill(0)
          for (let i = 0; i < row.length; i++) {
            const byte = route.sourceOffset + from + i
            if (fault === 'source') row[i] = source[byte]! ^ 1
            if (fault === 'shifted') row[i] = source[(byte + 1) % source.length]!
          }
        })
        fc.pre(!before.equals(world.parameters[worker]!))
        expect(check(world).mismatch).toBeDefined()
      }),
      { numRuns: 300 },
    )
  })

  it('are said to be unchecked where parts do not make a tensor and its holder is away; nothing wrong passes as checked', () => {
    const world = build({ tensors: [{ rows: 4, columns: 3, size: 2, way: 'transposed' }], workers: 2, seed: 5 })
    const { plan, mismatch } = check(world, new Set())
    expect([plan.unchecked, plan.checked, mismatch]).toEqual([[0], [], undefined])
  })
})

describe('what need not be compared in the ring', () => {
  it('is held against what was registered afterwards, all that the worker keeps of it, whoever takes part', () => {
    fc.assert(
      fc.property(cases, fc.array(fc.nat(4)), fc.boolean(), (given, opaque, holderTakesPart) => {
        const world = build(given)
        const present = new Set(holderTakesPart ? [0] : [])
        const recordings = world.recordings.map((recording) => ({
          ...recording,
          opaque: opaque
            .filter((tensor) => tensor < recording.tensors.length)
            .map((tensor) => ({ tensor, reason: 'computed' })),
        }))
        const { plan, tensors } = check({ ...world, recordings }, present)
        recordings.forEach((recording, worker) => {
          const compared = comparedInRing(recording, tensors, present)
          for (const { tensor } of recording.opaque) expect(compared).toContain(`t${tensor}`)
          recording.routes.forEach(({ tensor }, route) => {
            if (compared.has(`t${tensor}`)) return
            const held = plan.checked.find((one) => tensors.names[one.tensor] === `t${tensor}`)
            expect(held?.regions.flatMap(({ kept }) => kept)).toContainEqual({ reading: worker, route })
          })
        })
      }),
      { numRuns: 300 },
    )
  })
})

describe('registered tensors', () => {
  it('differ between ranks by an error that names tensor and ranks', () => {
    const { manifest } = build({ tensors: [{ rows: 1, columns: 8, size: 8, way: 'whole' }], workers: 1, seed: 3 })
    const [first] = manifest.ranks
    const other = { ...first!, rank: 1, tensors: { ...first!.tensors, digests: BigUint64Array.of(1n) } }
    expect(() => registeredTensors({ ...manifest, ranks: [first!, other] })).toThrow(
      expect.objectContaining({
        code: 'DIGEST_MISMATCH',
        fields: expect.objectContaining({ tensor: 't0', ranks: [0, 1] }) as object,
      }),
    )
  })
})

describe('isPartition', () => {
  it('is true only where every byte is in exactly one region', () => {
    const piece = fc.record({
      top: fc.nat(3),
      height: fc.integer({ min: 1, max: 4 }),
      left: fc.nat(3),
      width: fc.integer({ min: 1, max: 4 }),
    })
    fc.assert(
      fc.property(fc.array(piece, { minLength: 1, maxLength: 4 }), (pieces) => {
        const [rows, pitch] = [4, 32]
        const regions = pieces
          .filter(({ top, height, left, width }) => top + height <= rows && left + width <= 4)
          .map(({ top, height, left, width }) =>
            regionOf({
              tensor: 0,
              storage: 0,
              sourceOffset: top * pitch + left * 8,
              destinationOffset: 0,
              rowBytes: width * 8,
              dims: height === 1 ? [] : [height, pitch, width * 8],
            }),
          )
        const counts = new Uint8Array(rows * pitch)
        for (const { offset, rowBytes, dims } of regions) {
          const [count, stride] = dims.length === 0 ? [1, 0] : dims
          for (let row = 0; row < count!; row++) for (let i = 0; i < rowBytes; i++) counts[offset + row * stride! + i]!++
        }
        const exact = counts.every((count) => count === 1)
        // It may refuse what it cannot decide easily; it never accepts a cover that omits or repeats a byte.
        if (isPartition(regions, rows * pitch)) expect(exact).toBe(true)
      }),
      { numRuns: 2000 },
    )
    const slices = (count: number) =>
      Array.from({ length: count }, (_, i) =>
        regionOf({
          tensor: 0,
          storage: 0,
          sourceOffset: i * 16,
          destinationOffset: 0,
          rowBytes: 16,
          dims: [5, 16 * count, 16],
        }),
      )
    for (const count of [1, 2, 8]) expect(isPartition(slices(count), 5 * 16 * count)).toBe(true)
    expect(isPartition(slices(4).slice(1), 5 * 64)).toBe(false)
  })
})

describe('a reading from a different rank', () => {
  const list = { names: ['a'], bytes: [64] }
  const numbers = (...values: number[]) => new Uint8Array(Float64Array.from(values).buffer)
  it.each([
    ['a tensor that is not there', numbers(1, 1, 0, 8, 8, 0), 'tensor'],
    ['a region that leaves its tensor', numbers(1, 0, 60, 8, 4, 0), 'rowBytes'],
    ['rows that leave it', numbers(1, 0, 0, 8, 8, 1, 9, 8), 'dims'],
    ['more rows than can be walked', numbers(1, 0, 0, 8, 8, 1, 1e15, 0), 'dims'],
    ['a unit that divides nothing', numbers(1, 0, 4, 8, 8, 0), 'unit'],
    ['a unit of 3', numbers(1, 0, 0, 9, 3, 0), 'unit'],
    ['no end', numbers(2, 0, 0, 8, 8, 0), 'tensor'],
    ['no number', numbers(1, NaN, 0, 8, 8, 0), 'tensor'],
    ['half a number', new Uint8Array(9), 'length'],
  ])('is refused with %s, by the field', (_, bytes, field) => {
    expect(() => decodeReading(3, bytes, list)).toThrow(
      expect.objectContaining({ code: 'RENDEZVOUS_PROTOCOL', fields: expect.objectContaining({ rank: 3, field }) as object }),
    )
  })
})
