import { alignUp } from '@ckpt/utils'
import type { Rates } from './rates.ts'
import { type LinkUse, type Simulation, bottleneck } from './result.ts'
import { broadcastRate, hostLinkRate, nicOf } from './staged.ts'
import { type Workload, heldBytes, largest } from './workload.ts'

const GIB = 2 ** 30
/** Bytes to which checkpoint-engine aligns each tensor in its buffers. */
const ALIGNMENT = 256

export interface PeerOptions {
  /**
   * Bucket size in bytes; by default the size that checkpoint-engine detects: a third of 90 % of free memory, 8 GiB at most.
   */
  readonly bucketBytes?: number
  /** Ranks that pull over the network (its P2P); absent for a broadcast to all. */
  readonly ranks?: readonly number[]
}

interface PeerBucket {
  readonly owner: number
  readonly bytes: number
  readonly keptBytes: number
  readonly tensors: number
}

/**
 * Simulates checkpoint-engine 0.4.2 (`_update_per_bucket` of its package): everything to every rank. Owners' tensors fill
 * buckets in order. In each round every receiver first copies one bucket into its own buffer. Then, receiver by receiver, the
 * bucket is copied into one of two shared buffers and broadcast, while the workers load the previous bucket; the next broadcast
 * waits for both.
 */
export function simulatePeer(workload: Workload, rates: Rates, options: PeerOptions = {}): Simulation {
  const { manifest } = workload
  const gpus = manifest.ranks.length
  const p2p = options.ranks !== undefined
  const members = options.ranks ?? manifest.ranks.map(({ rank }) => rank)
  const hosts = new Set(members.map((rank) => Math.floor(rank / rates.gpusPerHost))).size
  const bucketBytes = options.bucketBytes ?? Math.min(8 * GIB, (rates.freeDeviceBytes * 0.9) / 3)
  const buckets = packBuckets(workload, bucketBytes)
  const rounds = p2p ? p2pRounds(buckets, members, rates) : broadcastRounds(buckets)
  const shared = members.length === 1 ? Infinity : broadcastRate(rates, hosts)
  const h2d = hostLinkRate(rates, Math.min(gpus, rates.gpusPerHost))
  const { end, busy } = timeOf(rounds, rates, { bringRate: p2p ? rates.nicRate : h2d, broadcastRate: shared })
  const total = rates.communicatorSeconds + rates.updateSeconds + end
  let moved = 0
  let kept = 0
  for (const { bytes, keptBytes } of buckets) {
    moved += bytes
    kept += keptBytes
  }
  const between = hosts > 1 ? (moved * (1 - 1 / hosts)) / rates.nicsPerHost : 0
  const links: LinkUse[] = [
    { link: p2p ? 'NIC' : 'host link', bytes: busy.bring * (p2p ? rates.nicRate : h2d), busyMs: busy.bring * 1000 },
    { link: 'NVLink', bytes: moved - moved / members.length, busyMs: busy.broadcast * 1000 },
    ...(between > 0 ? [{ link: 'NIC of broadcasts', bytes: between, busyMs: (between / rates.nicRate) * 1000 }] : []),
    { link: 'reload', bytes: kept, busyMs: busy.reload * 1000 },
  ]
  return {
    system: 'checkpoint-engine',
    strategy: p2p ? 'p2p' : 'broadcast',
    receivers: members.length,
    totalMs: total * 1000,
    stages: {
      controlMs: (rates.communicatorSeconds + rates.updateSeconds) * 1000,
      h2dMs: p2p ? 0 : busy.bring * 1000,
      networkMs: p2p ? busy.bring * 1000 : 0,
      broadcastMs: busy.broadcast * 1000,
      reloadMs: busy.reload * 1000,
    },
    ...bottleneck(links),
    deviceBytes: 3 * bucketBytes,
    hostBytes: largest(heldBytes(manifest)),
    buckets: buckets.length,
    bucketBytes,
    mode: 'broadcast beside the reload of the bucket before',
  }
}

/** When the last bucket is loaded, and how long each stage works, in seconds. */
function timeOf(
  rounds: readonly PeerBucket[][],
  rates: Rates,
  { bringRate, broadcastRate }: { readonly bringRate: number; readonly broadcastRate: number },
): { readonly end: number; readonly busy: { readonly bring: number; readonly broadcast: number; readonly reload: number } } {
  let now = 0
  let workerFree = 0
  const busy = { bring: 0, broadcast: 0, reload: 0 }
  for (const round of rounds) {
    const bring = largest(round.map(({ bytes }) => bytes)) / bringRate
    now += bring
    busy.bring += bring
    for (const { bytes, keptBytes, tensors } of round) {
      // The receiver's copy inside its GPU precedes its broadcast; then the answer to the previous bucket is awaited.
      const carried = bytes / rates.copyRate + bytes / broadcastRate
      now = Math.max(now + carried, workerFree)
      busy.broadcast += carried
      const work = keptBytes / rates.copyRate + tensors * rates.tensorSeconds + rates.bucketSeconds
      workerFree = now + work
      busy.reload += work
    }
  }
  return { end: Math.max(now, workerFree), busy }
}

function packBuckets({ manifest, kept }: Workload, bucketBytes: number): PeerBucket[] {
  const buckets: PeerBucket[] = []
  manifest.ranks.forEach(({ rank, tensors }, position) => {
    let current = { owner: rank, bytes: 0, keptBytes: 0, tensors: 0 }
    for (let row = 0; row < tensors.count; row++) {
      const bytes = alignUp(tensors.bytes[row]!, ALIGNMENT)
      if (current.tensors > 0 && current.bytes + bytes > bucketBytes) {
        buckets.push(current)
        current = { owner: rank, bytes: 0, keptBytes: 0, tensors: 0 }
      }
      current.bytes += bytes
      current.keptBytes += kept[position]![row]!
      current.tensors++
    }
    if (current.tensors > 0) buckets.push(current)
  })
  return buckets
}

/** Round r has bucket r of each owner. */
function broadcastRounds(buckets: readonly PeerBucket[]): PeerBucket[][] {
  const rounds: PeerBucket[][] = []
  let turn = 0
  let owner = -1
  for (const bucket of buckets) {
    turn = bucket.owner === owner ? turn + 1 : 0
    owner = bucket.owner
    ;(rounds[turn] ??= []).push(bucket)
  }
  return rounds
}

/** One receiver per NIC; in each turn they take the next buckets as long as these come from different NICs. */
function p2pRounds(buckets: readonly PeerBucket[], members: readonly number[], rates: Rates): PeerBucket[][] {
  const bySource = new Map<number, PeerBucket[]>()
  for (const bucket of buckets) {
    const nic = nicOf(bucket.owner, rates)
    const list = bySource.get(nic)
    if (list) list.push(bucket)
    else bySource.set(nic, [bucket])
  }
  const receivers = Math.min(new Set(members.map((rank) => nicOf(rank, rates))).size, bySource.size)
  const lists = [...bySource.values()]
  const turns = largest(lists.map(({ length }) => length))
  const order = Array.from({ length: turns }, (_, turn) => lists.flatMap((list) => list.slice(turn, turn + 1))).flat()
  const rounds: PeerBucket[][] = []
  for (let at = 0; at < order.length;) {
    const taken = new Set<number>()
    const round: PeerBucket[] = []
    while (round.length < receivers && at < order.length) {
      const source = nicOf(order[at]!.owner, rates)
      if (taken.has(source)) break
      taken.add(source)
      round.push(order[at++]!)
    }
    rounds.push(round)
  }
  return rounds
}
