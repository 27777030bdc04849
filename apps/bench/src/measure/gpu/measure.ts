import type { Host } from '@ckpt/contract'
import type { UpdateReport } from '@ckpt/core'
import { Cluster, type GeneratedCheckpoint } from '@ckpt/harness'
import { PeerCluster } from '../../peer/ranks.ts'
import type { PeerRun, Run } from '../../result.ts'
import { slowest } from '../updates.ts'
import { Own, type OwnOptions } from './own.ts'
import { Peer } from './peer.ts'
import { comparisons, gpuRun, type GpuSubject } from './result.ts'

export interface GpuMeasurement extends GpuSubject, OwnOptions {
  readonly checkpoint: Omit<GeneratedCheckpoint, keyof Disposable>
  readonly python: string
  readonly host: Host
  /** Measure checkpoint-engine in the same run, alternating. */
  readonly peer: boolean
  readonly onStep?: (step: string) => void
}

export interface GpuResult {
  readonly runs: readonly Run[]
  readonly peers: readonly PeerRun[]
}

/**
 * Updates of one checkpoint over GPUs: a rank and a Python engine worker each, which keeps its tensor-parallel slices. Before each
 * update all parameters are overwritten; after the first every byte is compared with the files, after every later one the digests of
 * all parameters with those of the first. Neither is timed. The slowest rank counts. With a peer, both systems take turns.
 */
export async function measureGpu(options: GpuMeasurement): Promise<GpuResult> {
  const { checkpoint, ranks, python, repeat, host } = options
  const step = options.onStep ?? (() => undefined)
  step('touching host memory')
  await touch(host, checkpoint.bytes * (options.peer ? 2.3 : 1.15)) // what each system copies, and some to spare
  step('starting processes')
  await using cluster = await Cluster.start({
    ranks,
    backend: 'cuda',
    keepAlive: true,
    // Ranks read each other's memory in direct updates: they have to be able to map it.
    shareMemory: options.strategy === 'direct',
    timeoutMs: 120_000,
    engine: { kind: 'python', python, checkpoint: checkpoint.directory },
  })
  await using peers = options.peer ? await PeerCluster.start({ python, ranks, checkpoint: checkpoint.directory }) : undefined
  const own = new Own(cluster, options)
  const peer = peers && new Peer(peers, options)

  step('registering in place')
  await own.registerInPlace()
  await peer?.registerInPlace()
  step('registering with a copy')
  await own.registerByCopy()
  await peer?.registerByCopy()
  step('gathering metas')
  await own.gather()
  await peer?.gather()
  step('first updates')
  await own.first(() => step('comparing every byte with the files'))
  await peer?.first(own.digests)

  const kept: UpdateReport[][] = []
  for (let i = 0; i < repeat; i++) {
    step(`update ${i + 1} of ${repeat}, keeping`)
    kept.push(await own.update(true))
    await peer?.asItComes(own.digests)
  }
  if (peer !== undefined) {
    step('the peer’s best bucket size')
    await peer.keepCommunicator(own.digests)
    for (let i = 0; i < repeat; i++) {
      step(`update ${i + 1} of ${repeat}, the peer at its best`)
      kept.push(await own.update(true))
      await peer.atItsBest(own.digests)
    }
  }
  const { runs, released } = await (options.strategy === 'direct' ? directRuns : broadcastRuns)(options, own, kept, step)
  return { runs, peers: peer === undefined ? [] : comparisons(options, own.facts, peer.facts, kept, released) }
}

interface Measured {
  readonly runs: Run[]
  /** Samples of updates that released everything. */
  readonly released: readonly UpdateReport[][]
}

/** The updates that kept ring and communicator, and as many that do not. */
async function broadcastRuns(
  options: GpuMeasurement,
  own: Own,
  kept: readonly UpdateReport[][],
  step: (step: string) => void,
): Promise<Measured> {
  const { repeat } = options
  const before = await own.freeBytes()
  await own.update(false)
  await settle()
  const without = await own.freeBytes()
  const released: UpdateReport[][] = []
  for (let i = 0; i < repeat; i++) {
    step(`update ${i + 1} of ${repeat}, releasing`)
    released.push(await own.update(false))
  }
  await settle()
  const after = await own.freeBytes()
  step('with digests')
  const common = {
    digestUpdateMs: slowest(await own.update(true, true)),
    peakHostBytes: await own.peakHostBytes(),
    peakDeviceBytes: most(without, before),
  }
  const runs = [
    gpuRun(options, own.facts, kept, { ...common, variant: 'kept' }),
    gpuRun(options, own.facts, released, { ...common, variant: 'released', growthBytes: most(without, after) }),
  ]
  return { runs, released }
}

/** Direct updates keep neither ring nor collective: there is nothing to release. */
async function directRuns(
  options: GpuMeasurement,
  own: Own,
  kept: readonly UpdateReport[][],
  step: (step: string) => void,
): Promise<Measured> {
  const before = await own.freeBytes()
  step('with digests')
  const digestUpdateMs = slowest(await own.update(true, true))
  const run = gpuRun(options, own.facts, kept, {
    digestUpdateMs,
    peakHostBytes: await own.peakHostBytes(),
    peakDeviceBytes: Math.max(...kept.flat().map((report) => report.ringBytes)),
    growthBytes: most(before, await own.freeBytes()),
    variant: 'kept',
  })
  return { runs: [run], released: [] }
}

/** By how much memory more was free on a GPU then than later. */
const most = (then: readonly number[], later: readonly number[]) => Math.max(...then.map((free, rank) => free - later[rank]!))

/** The communicators that were let go are gone by then. */
const settle = () => new Promise((resolve) => setTimeout(resolve, 2000))

/** A virtual machine may get its memory only as it is first touched: that is no part of what is measured. */
async function touch(host: Host, bytes: number): Promise<void> {
  const memory = await host.allocate({ bytes: Math.ceil(bytes), lock: false })
  memory.close()
}
