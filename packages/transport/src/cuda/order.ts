import type { Exchange, MeasuredOrder, PipelineOrder } from '@ckpt/contract'

/** A way to run the beginning of a job. */
export interface OrderCandidate {
  readonly name: PipelineOrder['name']
  readonly chunkBytes: number
  /** Bytes that the busiest owner should send. */
  readonly bytes: number
}

/** Runs candidates on this member, one after another: total, H2D and broadcast time of each, in milliseconds. */
export type MeasureCandidates = (candidates: readonly OrderCandidate[]) => Promise<Float64Array>

const MIB = 2 ** 20
/** Below this size, start-up times of copies and broadcasts would dominate the measurement. */
const LEAST_BYTES = 64 * MIB
const WARM_UP_BYTES = 32 * MIB
/** Two H200s with NVLink: this, the warm-up and the exchange take 9 ms; 17 ms if broadcasts go through host memory. */
const FIRST_BYTES = 128 * MIB
const SECOND_BYTES = 256 * MIB
/** A broadcast that is faster than H2D by this factor does not use the link that H2D uses. */
const FASTER = 1.5
/** Factor by which overlapping must exceed its undisturbed time to count as disturbed. */
const DISTURBED = 1.1
/** Fraction by which an order must beat the usual one: less is noise. */
const WORTH = 0.05

/**
 * Measures the best order in time of H2D and broadcasts, on all members at once. First both at once and each alone. If
 * broadcasts are clearly faster than the host's link, or if the two do not slow each other down, they use separate links;
 * overlapping is then optimal, and nothing else is tried. Otherwise other orders and chunk sizes run too, and the one whose
 * slowest member is the fastest is chosen. All members see the same figures, so all choose the same. Undefined if the job is
 * too small to measure.
 */
export async function chooseOrder(
  job: { readonly members: number; readonly chunkBytes: number; readonly busiestOwnerBytes: number },
  measure: MeasureCandidates,
  exchange: Exchange,
): Promise<PipelineOrder | undefined> {
  if (job.busiestOwnerBytes < LEAST_BYTES) return undefined
  const usual = { name: 'overlapped', chunkBytes: job.chunkBytes } as const
  const run = async (key: string, candidates: readonly OrderCandidate[]): Promise<MeasuredOrder[]> =>
    slowest(candidates, await exchange(key, [...(await measure(candidates))]), job.busiestOwnerBytes)
  const [, together, apart] = await run('cuda-order-first', [
    { ...usual, bytes: WARM_UP_BYTES },
    { ...usual, bytes: FIRST_BYTES },
    { ...usual, name: 'alternating', bytes: FIRST_BYTES },
  ])
  const first = [together!, apart!]
  const figures = `${ms(together!.wholeMs)} at once, alone H2D ${ms(apart!.h2dMs)} and broadcast ${ms(apart!.broadcastMs)}`
  if (!sharesLinks(job.members, together!, apart!)) {
    const reason = `H2D and broadcasts use separate links: ${figures}`
    return { ...usual, linksShared: false, reason, measured: first }
  }
  const others = [
    { ...usual },
    { ...usual, chunkBytes: Math.ceil(job.chunkBytes / 4) },
    { ...usual, chunkBytes: job.chunkBytes * 4 },
    { ...usual, name: 'alternating' },
    { name: 'alternating', chunkBytes: job.chunkBytes * 4 },
  ] as const
  const second = await run(
    'cuda-order-second',
    others.map((candidate) => ({ ...candidate, bytes: SECOND_BYTES })),
  )
  const best = second.reduce((least, candidate) => (candidate.wholeMs < least.wholeMs ? candidate : least))
  const chosen = best.wholeMs < second[0]!.wholeMs * (1 - WORTH) ? best : second[0]!
  const why =
    chosen === second[0]
      ? `none of ${second.length - 1} other orders was ${WORTH * 100} % faster than ${ms(chosen.wholeMs)}`
      : `the fastest of ${second.length} orders, ${ms(chosen.wholeMs)} against ${ms(second[0]!.wholeMs)} overlapped`
  const reason = `H2D and broadcasts share links (${figures}); ${why}`
  return { name: chosen.name, chunkBytes: chosen.chunkBytes, linksShared: true, reason, measured: [...first, ...second] }
}

/**
 * Returns true if broadcasts use links that H2D needs. Each member receives what all others broadcast, in addition to its own
 * copies.
 */
function sharesLinks(
  members: number,
  together: MeasuredOrder,
  { h2dMs, broadcastMs, bytes, chunkBytes }: MeasuredOrder,
): boolean {
  if (broadcastMs * FASTER <= (members - 1) * h2dMs) return false
  // The stages cannot overlap in the first chunk of the one and the last of the other.
  const undisturbed = Math.max(h2dMs, broadcastMs) + Math.min(h2dMs, broadcastMs) * Math.min(1, chunkBytes / bytes)
  return together.wholeMs > undisturbed * DISTURBED
}

/** Returns the bytes of the owner that sent most. */
export function busiestOwnerBytes(buckets: { owner: Uint32Array; bytes: Float64Array }, owners: number): number {
  const given = new Float64Array(owners)
  buckets.owner.forEach((owner, bucket) => (given[owner]! += buckets.bytes[bucket]!))
  return Math.max(0, ...given)
}

/** Returns each candidate with the longest times of any member. */
function slowest(
  candidates: readonly OrderCandidate[],
  figures: readonly (readonly number[])[],
  most: number,
): MeasuredOrder[] {
  return candidates.map((candidate, index) => {
    const [wholeMs, h2dMs, broadcastMs] = [0, 1, 2].map((column) =>
      Math.max(...figures.map((member) => member[index * 3 + column]!)),
    ) as [number, number, number]
    return { ...candidate, bytes: Math.min(candidate.bytes, most), wholeMs, h2dMs, broadcastMs }
  })
}

function ms(value: number): string {
  return `${value.toFixed(1)} ms`
}
