import type { Manifest, PlanOptions, TransferPlan } from '@ckpt/contract'
import { alignUp } from '@ckpt/utils'
import { BLOCK_ALIGNMENT } from './align.ts'
import { type ResolvedOptions, resolveOptions, resolveRanks } from './options.ts'
import { chooseOwners } from './owners.ts'
import { packShares } from './pack.ts'
import { type Endpoint, assignReceivers } from './receivers.ts'
import { layOutRing } from './ring.ts'
import { orderInRounds } from './rounds.ts'
import { chooseMode, chooseSizes } from './sizes.ts'

/** Options of a P2P plan. */
export interface P2pPlanOptions extends PlanOptions {
  /** Ranks that receive. Every rank of the manifest serves what it holds. */
  readonly ranks: readonly number[]
  /**
   * The receivers are ranks of a different world than the manifest's, where their numbers have no meaning (default false: they
   * are ranks of the manifest).
   */
  readonly joining?: boolean
  /** NICs of each rank, each named uniquely in the cluster (`host/device`). A rank that is not listed has its own NIC. */
  readonly nics?: ReadonlyMap<number, readonly string[]>
}

/**
 * Plans an update that reaches all ranks: every owner copies its own buckets into device memory and broadcasts them. Pure and
 * deterministic; only {@link PlanOptions.ranks} may own tensors.
 *
 * @throws CkptError `PLAN_INFEASIBLE` naming the tensor that the ring cannot hold; `INVALID_ARGUMENT` naming the option, or the
 *   tensor and ranks whose copies differ or whose holder does not take part.
 */
export function planBroadcast(manifest: Manifest, options: PlanOptions): TransferPlan {
  const resolved = resolveOptions(options)
  const ranks = resolveRanks(options.ranks, knownRanks(manifest))
  return plan(manifest, 'broadcast', ranks, ranks, ({ owner }) => owner, undefined, resolved)
}

/**
 * Plans an update that reaches only some ranks: they pull buckets from the ranks that hold them, each bucket once, and
 * broadcast them among themselves. Pure and deterministic; errors as for {@link planBroadcast}.
 */
export function planP2p(manifest: Manifest, options: P2pPlanOptions): TransferPlan {
  const resolved = resolveOptions(options)
  const known = knownRanks(manifest)
  const joining = options.joining === true
  const ranks = resolveRanks(options.ranks, joining ? options.ranks : known)
  const endpoint = (rank: number): Endpoint => ({ rank, nics: options.nics?.get(rank) ?? [`rank-${rank}`] })
  const receivers = ranks.map((rank) => (joining ? { rank, nics: [`joining-${rank}`] } : endpoint(rank)))
  const sources = known.map(endpoint)
  const receive = (buckets: ReceiverInput) => assignReceivers({ ...buckets, sources, receivers }).receiver
  return plan(manifest, 'p2p', ranks, known, receive, ranks.length, resolved)
}

/**
 * Plans the part of some ranks in an update that reaches all: those that share memory, where others do not. What they hold they
 * copy themselves; everything else they pull, each bucket once, and share among themselves. Pure and deterministic; errors as for
 * {@link planBroadcast}.
 */
export function planWithin(manifest: Manifest, options: PlanOptions & { readonly ranks: readonly number[] }): TransferPlan {
  const known = knownRanks(manifest)
  const ranks = resolveRanks(options.ranks, known)
  const endpoint = (rank: number): Endpoint => ({ rank, nics: [`rank-${rank}`] })
  const inside = new Set(ranks)
  const receive = ({ owner, bytes }: ReceiverInput): Uint32Array => {
    const pulled = [...owner.keys()].filter((bucket) => !inside.has(owner[bucket]!))
    const away = { owner: Uint32Array.from(pulled, (b) => owner[b]!), bytes: Float64Array.from(pulled, (b) => bytes[b]!) }
    const { receiver } = assignReceivers({ ...away, sources: known.map(endpoint), receivers: ranks.map(endpoint) })
    const all = owner.slice()
    pulled.forEach((bucket, index) => (all[bucket] = receiver[index]!))
    return all
  }
  return plan(manifest, 'broadcast', ranks, known, receive, ranks.length, resolveOptions(options))
}

type ReceiverInput = { readonly owner: Uint32Array; readonly bytes: Float64Array }

function plan(
  manifest: Manifest,
  strategy: TransferPlan['strategy'],
  ranks: readonly number[],
  members: readonly number[],
  receive: (buckets: ReceiverInput) => Uint32Array,
  lanes: number | undefined,
  options: ResolvedOptions,
): TransferPlan {
  const shares = chooseOwners(manifest, members, members.length > ranks.length && strategy === 'broadcast' ? ranks : members)
  const sizes = chooseSizes(manifest, shares, lanes ?? shares.length, options, lanes)
  const { rounds, buckets, items } = orderInRounds(packShares(manifest, shares, sizes.bucketBytes))
  let bucketsBytes = 0
  for (const bytes of buckets.bytes) bucketsBytes += alignUp(bytes, BLOCK_ALIGNMENT)
  const allowed = Math.max(Math.min(sizes.wantedRingBytes, bucketsBytes), BLOCK_ALIGNMENT)
  const { ringBytes, ringOffset, after } = layOutRing(buckets.bytes, allowed)
  return {
    strategy,
    manifestDigest: manifest.digest,
    ranks,
    ...chooseMode(sizes, allowed, bucketsBytes),
    ringBytes: Math.max(ringBytes, BLOCK_ALIGNMENT),
    bucketBytes: sizes.bucketBytes,
    chunkBytes: options.chunkBytes,
    rounds,
    totalBytes: sizes.totalBytes,
    buckets: { ...buckets, receiver: receive(buckets), ringOffset, after },
    items,
  }
}

function knownRanks(manifest: Manifest): number[] {
  return manifest.ranks.map(({ rank }) => rank)
}
