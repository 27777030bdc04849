import type { TransferPlan } from '@ckpt/contract'
import type { Rates } from './rates.ts'
import { type LinkUse, type Simulation, bottleneck } from './result.ts'
import { type Workload, bucketLoads, heldBytes, largest, sum } from './workload.ts'

/** Times at which the stages of a plan work, in seconds since its pipeline began; bytes by rank. */
interface Timeline {
  readonly end: number
  readonly h2d: number
  readonly network: number
  readonly broadcast: number
  readonly reload: number
}

/**
 * Simulates a staged update (broadcast or p2p): the plan's buckets in their order through the links they need. A bucket waits
 * for its owner's and its receiver's links, for the ring bytes it overwrites, for the broadcasts before it (a communicator runs
 * one at a time) and for the worker; inside a bucket the stages overlap by chunks.
 */
export function simulateStaged(plan: TransferPlan, workload: Workload, rates: Rates): Simulation {
  const receivers = plan.ranks.length
  const hosts = new Set(plan.ranks.map((rank) => Math.floor(rank / rates.gpusPerHost))).size
  const held = heldBytes(workload.manifest)
  const loads = bucketLoads(plan, workload)
  const timeline =
    rates.processors === undefined
      ? overLinks(plan, loads, rates, receivers, hosts)
      : onProcessors(plan, loads, rates, receivers)
  // A rank's steps before and after the pipeline are sequential: more processors than ranks do not shorten them.
  const turns = rates.processors === undefined ? 1 : Math.max(1, receivers / rates.processors)
  const control = rates.updateSeconds * turns
  const limits = bottleneck(linkUse(plan, timeline, rates, { receivers, hosts, kept: sum(loads.keptBytes) }))
  return {
    system: 'ckpt',
    strategy: plan.strategy,
    receivers,
    totalMs: control * 1000 + Math.max(timeline.end * 1000, limits.boundMs),
    stages: {
      controlMs: control * 1000,
      h2dMs: timeline.h2d * 1000,
      networkMs: timeline.network * 1000,
      broadcastMs: timeline.broadcast * 1000,
      reloadMs: timeline.reload * 1000,
    },
    ...limits,
    deviceBytes: plan.ringBytes,
    hostBytes: largest(held),
    buckets: plan.buckets.count,
    bucketBytes: plan.bucketBytes,
    mode: plan.mode,
  }
}

/** Rate of a broadcast to each receiver: NVLink inside a host, all NICs of a host between hosts. */
export function broadcastRate(rates: Rates, hosts: number): number {
  return hosts > 1 ? Math.min(rates.peerRate, rates.nicsPerHost * rates.nicRate) : rates.peerRate
}

/** Rate of a GPU's own link, or its part of the host memory's rate. */
export function hostLinkRate(rates: Rates, active = rates.gpusPerHost): number {
  return Math.min(rates.h2dRate, rates.hostMemoryRate / Math.max(1, active))
}

/** NIC that a rank uses, numbered over the cluster. */
export function nicOf(rank: number, { gpusPerHost, nicsPerHost }: Rates): number {
  const host = Math.floor(rank / gpusPerHost)
  return host * nicsPerHost + Math.floor(((rank % gpusPerHost) * nicsPerHost) / gpusPerHost)
}

function overLinks(
  { buckets, chunkBytes, mode, strategy, ranks }: TransferPlan,
  { keptBytes, tensors }: ReturnType<typeof bucketLoads>,
  rates: Rates,
  receivers: number,
  hosts: number,
): Timeline {
  const overNics = strategy === 'p2p'
  const viaHost = !overNics || !rates.nicToGpu
  const shared = receivers === 1 ? Infinity : broadcastRate(rates, hosts)
  const links = new Links(rates, Math.max(largest(buckets.owner), ranks.at(-1) ?? 0), receivers)
  const released = new Float64Array(buckets.count)
  let collectiveFree = 0
  let workerFree = 0
  let broadcast = 0
  let reload = 0
  for (let bucket = 0; bucket < buckets.count; bucket++) {
    const bytes = buckets.bytes[bucket]!
    const chunk = Math.min(chunkBytes, bytes)
    const receiver = buckets.receiver[bucket]!
    const after = buckets.after[bucket]!
    const free = after < 0 ? 0 : released[after]!
    const start = mode === 'serial' ? Math.max(free, workerFree) : free
    let passed: Passage = { first: start, end: start }
    if (overNics) passed = links.pull(buckets.owner[bucket]!, receiver, { bytes, chunk, start })
    if (viaHost) passed = links.toDevice(receiver, { bytes, chunk, start: passed.first }, overNics ? passed.end : -Infinity)
    if (shared !== Infinity) {
      const began = Math.max(passed.first, collectiveFree)
      collectiveFree = Math.max(began + bytes / shared, passed.end + chunk / shared)
      passed = { first: began, end: collectiveFree }
      broadcast += bytes / shared
    }
    const work = keptBytes[bucket]! / rates.copyRate + tensors[bucket]! * rates.tensorSeconds + rates.bucketSeconds
    workerFree = Math.max(workerFree, passed.end) + work
    reload += work
    released[bucket] = workerFree
  }
  return { end: workerFree, h2d: links.busiestHostLink, network: links.busiestNic, broadcast, reload }
}

/** When a bucket's first chunk and its last byte have passed a link, in seconds. */
interface Passage {
  readonly first: number
  readonly end: number
}

/** A bucket that is to pass a link from `start` on; sizes in bytes. */
interface Load {
  readonly bytes: number
  readonly chunk: number
  readonly start: number
}

/** Host links and NICs of all ranks, each of which carries one bucket at a time. */
class Links {
  readonly #rates: Rates
  readonly #h2dRate: number
  readonly #linkFree: Float64Array
  readonly #linkBusy: Float64Array
  readonly #sendFree: Float64Array
  readonly #receiveFree: Float64Array
  readonly #nicBusy: Float64Array

  constructor(rates: Rates, highestRank: number, receivers: number) {
    this.#rates = rates
    this.#h2dRate = hostLinkRate(rates, Math.min(receivers, rates.gpusPerHost))
    this.#linkFree = new Float64Array(highestRank + 1)
    this.#linkBusy = new Float64Array(highestRank + 1)
    const nics = nicOf(highestRank, rates) + 1
    this.#sendFree = new Float64Array(nics)
    this.#receiveFree = new Float64Array(nics)
    this.#nicBusy = new Float64Array(nics)
  }

  get busiestHostLink(): number {
    return largest(this.#linkBusy)
  }

  get busiestNic(): number {
    return largest(this.#nicBusy)
  }

  /** From the owner's host memory over both ranks' NICs. */
  pull(owner: number, receiver: number, { bytes, chunk, start }: Load): Passage {
    const { nicRate } = this.#rates
    const from = nicOf(owner, this.#rates)
    const to = nicOf(receiver, this.#rates)
    const began = Math.max(start, this.#sendFree[from]!, this.#receiveFree[to]!)
    const end = began + bytes / nicRate
    this.#sendFree[from] = end
    this.#receiveFree[to] = end
    this.#nicBusy[to]! += bytes / nicRate
    if (from !== to) this.#nicBusy[from]! += bytes / nicRate
    return { first: began + chunk / nicRate, end }
  }

  /** From host memory into the GPU; a bucket that still arrives until `arrived` cannot end before its last chunk was copied. */
  toDevice(receiver: number, { bytes, chunk, start }: Load, arrived: number): Passage {
    const began = Math.max(start, this.#linkFree[receiver]!)
    const took = bytes / this.#h2dRate
    const end = Math.max(began + took, arrived + chunk / this.#h2dRate)
    this.#linkFree[receiver] = end
    this.#linkBusy[receiver]! += took
    return { first: began + chunk / this.#h2dRate, end }
  }
}

/** Ranks and workers on processors that do everything: in any order, the processors have to do all of the work. */
function onProcessors(
  { buckets, strategy }: TransferPlan,
  { keptBytes, tensors }: ReturnType<typeof bucketLoads>,
  rates: Rates,
  receivers: number,
): Timeline {
  const { processors = 1, h2dRate, nicRate, peerRate, copyRate, tensorSeconds, bucketSeconds } = rates
  const pulled = strategy === 'p2p'
  let h2d = 0
  let network = 0
  let broadcast = 0
  let reload = 0
  let messages = 0
  for (let bucket = 0; bucket < buckets.count; bucket++) {
    const bytes = buckets.bytes[bucket]!
    // Pulled bytes arrive in the ring itself.
    if (pulled) network += bytes / nicRate
    else h2d += bytes / h2dRate
    broadcast += ((receivers - 1) * bytes) / peerRate
    reload += receivers * (keptBytes[bucket]! / copyRate + tensors[bucket]! * tensorSeconds)
    messages += receivers * bucketSeconds
  }
  const end = (h2d + network + broadcast + reload + messages) / processors
  return {
    end,
    h2d: h2d / receivers,
    network: network / receivers,
    broadcast: broadcast / receivers,
    reload: reload / receivers,
  }
}

function linkUse(
  { totalBytes, strategy, buckets, ranks }: TransferPlan,
  timeline: Timeline,
  rates: Rates,
  { receivers, hosts, kept }: { receivers: number; hosts: number; kept: number },
): LinkUse[] {
  if (rates.processors !== undefined) {
    const moved = totalBytes * receivers + kept * receivers
    return [{ link: 'processors', bytes: moved, busyMs: timeline.end * 1000 }]
  }
  const brought = new Map<number, number>(ranks.map((rank) => [rank, 0]))
  for (let bucket = 0; bucket < buckets.count; bucket++) {
    const to = buckets.receiver[bucket]!
    brought.set(to, (brought.get(to) ?? 0) + buckets.bytes[bucket]!)
  }
  const most = largest(brought.values())
  const perHost = Math.min(receivers, rates.gpusPerHost)
  const shared = receivers > 1 ? totalBytes - totalBytes / receivers : 0
  const between = hosts > 1 ? (totalBytes * (1 - 1 / hosts)) / rates.nicsPerHost : 0
  const viaHost = strategy === 'broadcast' || !rates.nicToGpu
  const ms = (bytes: number, rate: number) => (bytes / rate) * 1000
  return [
    { link: 'host link', bytes: viaHost ? most : 0, busyMs: timeline.h2d * 1000 },
    { link: 'host memory', bytes: most * perHost, busyMs: ms(most * perHost, rates.hostMemoryRate) },
    { link: 'NVLink', bytes: shared, busyMs: ms(shared, rates.peerRate) },
    {
      link: 'NIC',
      bytes: between + (strategy === 'p2p' ? timeline.network * rates.nicRate : 0),
      busyMs: ms(between, rates.nicRate) + timeline.network * 1000,
    },
    { link: 'reload', bytes: kept, busyMs: timeline.reload * 1000 },
  ]
}
