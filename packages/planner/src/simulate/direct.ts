import type { Rates } from './rates.ts'
import { type LinkUse, type Simulation, bottleneck } from './result.ts'
import { hostLinkRate } from './staged.ts'
import { type Workload, heldBytes, largest } from './workload.ts'

/**
 * Simulates an update that sends each worker only the bytes it keeps: from the memory of its own host over its own link, from
 * other hosts over the NICs. Bytes are counted by owner and receiver, so that an owner that holds more than others is visible.
 * Each link carries its bytes without a pause, because only the last byte is waited for.
 */
export function simulateDirect(workload: Workload, rates: Rates): Simulation {
  const { ranks } = workload.manifest
  const { gpusPerHost, nicsPerHost } = rates
  const gpus = ranks.length
  const hosts = Math.ceil(gpus / gpusPerHost)
  const onHost = (host: number) => Math.min(gpusPerHost, gpus - host * gpusPerHost)
  // Bytes that a worker keeps of each host's part of the checkpoint.
  const keptOf = new Float64Array(hosts)
  ranks.forEach(({ rank }, position) => {
    for (const bytes of workload.kept[position]!) keptOf[Math.floor(rank / gpusPerHost)]! += bytes
  })
  let kept = 0
  for (const bytes of keptOf) kept += bytes
  let link = 0
  let memory = 0
  let nic = 0
  for (let host = 0; host < hosts; host++) {
    const here = onHost(host)
    const local = keptOf[host]!
    // Bytes that arrive over a NIC enter the GPU over the same link as those from the host's own memory.
    link = Math.max(link, kept)
    memory = Math.max(memory, local * gpus + (rates.nicToGpu ? 0 : 2 * (kept - local) * here))
    nic = Math.max(nic, (local * (gpus - here)) / nicsPerHost, ((kept - local) * here) / nicsPerHost)
  }
  if (rates.processors !== undefined) return onProcessors(workload, rates, kept)
  const linkRate = Math.min(rates.gatherRate, hostLinkRate(rates, Math.min(gpus, gpusPerHost)))
  const seconds = { link: link / linkRate, memory: memory / rates.hostMemoryRate, nic: nic / rates.nicRate }
  const pipeline = Math.max(seconds.link, seconds.memory, seconds.nic)
  const links: LinkUse[] = [
    { link: 'host link', bytes: link, busyMs: seconds.link * 1000 },
    { link: 'host memory', bytes: memory, busyMs: seconds.memory * 1000 },
    { link: 'NIC', bytes: nic, busyMs: seconds.nic * 1000 },
  ]
  return {
    system: 'ckpt',
    strategy: 'direct',
    receivers: gpus,
    totalMs: (rates.updateSeconds + pipeline) * 1000,
    stages: {
      controlMs: rates.updateSeconds * 1000,
      h2dMs: seconds.link * 1000,
      networkMs: seconds.nic * 1000,
      broadcastMs: 0,
      reloadMs: 0,
    },
    ...bottleneck(links),
    deviceBytes: 0,
    hostBytes: largest(heldBytes(workload.manifest)),
    buckets: 0,
    bucketBytes: 0,
    mode: 'shard-exact',
  }
}

/** Ranks that copy directly into their workers' parameters, on processors that do everything. */
function onProcessors(workload: Workload, rates: Rates, kept: number): Simulation {
  const { processors = 1, copyRate, updateSeconds } = rates
  const receivers = workload.manifest.ranks.length
  const control = updateSeconds * Math.max(1, receivers / processors) * 1000
  const copies = ((kept * receivers) / copyRate / processors) * 1000
  return {
    system: 'ckpt',
    strategy: 'direct',
    receivers,
    totalMs: control + copies,
    stages: { controlMs: control, h2dMs: copies, networkMs: 0, broadcastMs: 0, reloadMs: 0 },
    ...bottleneck([{ link: 'processors', bytes: kept * receivers, busyMs: copies }]),
    deviceBytes: 0,
    hostBytes: largest(heldBytes(workload.manifest)),
    buckets: 0,
    bucketBytes: 0,
    mode: 'shard-exact',
  }
}
