import type { RegisteredTensors } from './digests.ts'
import { isPartition } from './partition.ts'
import type { Reading } from './reading.ts'
import { regionBytes, regionKey, type TensorRegion } from './region.ts'

/** Position at which a region is kept: index of the reading, and of the route in it. */
interface Kept {
  readonly reading: number
  readonly route: number
}

/** A region that workers keep; all of them must have the same bytes. */
interface KeptRegion {
  readonly region: TensorRegion
  readonly kept: readonly Kept[]
}

/** A tensor that workers keep a part of. */
interface CheckedTensor {
  /** Index in the list of tensors. */
  readonly tensor: number
  readonly regions: readonly KeptRegion[]
  /**
   * Rank that sums the regions of its registered bytes, and the start of its answers; undefined if the regions add up to the
   * tensor's own digest.
   */
  readonly vouch?: { readonly rank: number; readonly first: number }
}

/** Regions of one tensor that a rank sums from its registered bytes. */
export interface Voucher {
  readonly tensor: number
  readonly regions: readonly TensorRegion[]
}

/** Plan for comparing what workers keep with what was registered. Pure data, the same on all ranks. */
export interface VerifyPlan {
  readonly checked: readonly CheckedTensor[]
  /** Regions that each rank sums from its registered bytes. */
  readonly vouchers: ReadonlyMap<number, readonly Voucher[]>
  /** Tensors for which some worker keeps bytes that cannot be compared. */
  readonly unchecked: readonly number[]
  /** Bytes of parameters that are compared, over all workers. */
  readonly bytes: number
  readonly routes: number
}

/**
 * Plans which sums are compared for which tensor. Regions that contain a tensor's words once each are sufficient: their sums
 * add up to its digest. For others the first rank that holds the tensor vouches, if it takes part.
 *
 * @param present participating ranks.
 */
export function planVerify(tensors: RegisteredTensors, readings: readonly Reading[], present: ReadonlySet<number>): VerifyPlan {
  const found = new Map<number, Map<string, { region: TensorRegion; kept: Kept[] }>>()
  const unchecked = new Set<number>()
  readings.forEach((one, reading) => {
    for (const tensor of one.opaque) unchecked.add(tensor)
    one.tensors.forEach((tensor, route) => {
      const region = one.regions[route]!
      let regions = found.get(tensor)
      if (regions === undefined) found.set(tensor, (regions = new Map<string, { region: TensorRegion; kept: Kept[] }>()))
      const key = regionKey(region)
      const known = regions.get(key)
      if (known) known.kept.push({ reading, route })
      else regions.set(key, { region, kept: [{ reading, route }] })
    })
  })
  const checked: CheckedTensor[] = []
  const vouchers = new Map<number, Voucher[]>()
  const answers = new Map<number, number>()
  let bytes = 0
  let routes = 0
  for (const [tensor, byKey] of found) {
    const regions = [...byKey.values()]
    const { rank } = tensors.holders[tensor]!
    const alone = isPartition(
      regions.map(({ region }) => region),
      tensors.bytes[tensor]!,
    )
    if (!alone && !present.has(rank)) {
      unchecked.add(tensor)
      continue
    }
    for (const { region, kept } of regions) {
      bytes += regionBytes(region) * kept.length
      routes += kept.length
    }
    if (alone) {
      checked.push({ tensor, regions })
      continue
    }
    const first = answers.get(rank) ?? 0
    answers.set(rank, first + regions.length)
    checked.push({ tensor, regions, vouch: { rank, first } })
    const list = vouchers.get(rank)
    const voucher = { tensor, regions: regions.map(({ region }) => region) }
    if (list) list.push(voucher)
    else vouchers.set(rank, [voucher])
  }
  return { checked, vouchers, unchecked: [...unchecked].sort((a, b) => a - b), bytes, routes }
}

/** A tensor whose parameters differ from the registered bytes. */
export interface Mismatch {
  readonly tensor: number
  /** Ranks whose workers may keep wrong bytes of it. */
  readonly ranks: readonly number[]
}

/** 64-bit sums as pairs of 32 bits, the lower one first: additions of BigInts take most of the time of a comparison. */
class Halves {
  readonly #halves: Uint32Array
  readonly length: number

  constructor(values: BigUint64Array) {
    this.#halves = new Uint32Array(values.buffer, values.byteOffset, 2 * values.length)
    this.length = values.length
  }

  low(index: number): number {
    return this.#halves[2 * index]!
  }

  high(index: number): number {
    return this.#halves[2 * index + 1]!
  }

  /** True if value `index` is there and equals value `at` of `other`. */
  same(index: number, other: Halves, at: number): boolean {
    return index < this.length && at < other.length && this.low(index) === other.low(at) && this.high(index) === other.high(at)
  }
}

const HALF = 2 ** 32
const NO_SUMS = new Halves(new BigUint64Array(0))

/**
 * Returns the first tensor of which some worker keeps bytes that differ from the registered ones; undefined if all are right.
 *
 * @param expected by tensor: the sum of its words (`expectedSums`).
 * @param sums by reading: the sum of each route's bytes.
 * @param vouched by rank: the sums of its vouchers' regions, one after the other.
 */
export function findMismatch(
  plan: VerifyPlan,
  expected: BigUint64Array,
  readings: readonly Reading[],
  sums: readonly BigUint64Array[],
  vouched: ReadonlyMap<number, BigUint64Array>,
): Mismatch | undefined {
  const ranksOf = (kept: readonly Kept[]) => [...new Set(kept.map(({ reading }) => readings[reading]!.rank))]
  const registered = new Halves(expected)
  const read = sums.map((one) => new Halves(one))
  const answers = new Map([...vouched].map(([rank, one]) => [rank, new Halves(one)]))
  for (const { tensor, regions, vouch } of plan.checked) {
    let [low, high] = [0, 0]
    for (const [index, { kept }] of regions.entries()) {
      const { reading, route } = kept[0]!
      const right = vouch ? (answers.get(vouch.rank) ?? NO_SUMS) : (read[reading] ?? NO_SUMS)
      const at = vouch ? vouch.first + index : route
      const wrong = kept.filter((one) => !right.same(at, read[one.reading] ?? NO_SUMS, one.route))
      if (wrong.length > 0) return { tensor, ranks: ranksOf(vouch ? wrong : kept) }
      low += right.low(at)
      high = (high + right.high(at) + Math.floor(low / HALF)) % HALF
      low %= HALF
    }
    if (vouch || (low === registered.low(tensor) && high === registered.high(tensor))) continue
    return { tensor, ranks: ranksOf(regions.flatMap(({ kept }) => kept)) }
  }
  return undefined
}
