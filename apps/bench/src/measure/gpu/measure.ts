import type { Host } from '@ckpt/contract'
import type { UpdateReport } from '@ckpt/core'
import { Cluster, type GeneratedCheckpoint } from '@ckpt/testing'
import { PeerCluster } from '../../peer/cluster.ts'
import type { PeerRun, ReferenceRun } from '../../result.ts'
import { timesOf } from '../../statistics.ts'
import { slowest } from '../updates.ts'
import { Own, type OwnOptions } from './own.ts'
import { Peer } from './peer.ts'
import { comparisons, gpuRun, type GpuSubject, type OwnPreparation, type PeerFacts, type PeerSample } from './result.ts'

export interface GpuMeasurement extends GpuSubject, OwnOptions {
  readonly checkpoint: Omit<GeneratedCheckpoint, keyof Disposable>
  readonly python: string
  readonly host: Host
  /** Measure checkpoint-engine in the same run, alternating. */
  readonly peer: boolean
  readonly onStep?: (step: string) => void
}

export interface GpuResult {
  readonly runs: readonly ReferenceRun[]
  readonly peers: readonly PeerRun[]
}

/**
 * Measures updates of one checkpoint over GPUs: a rank and a Python engine worker each, which keeps its tensor-parallel slices.
 * Each update has a registration of its own. Before it all parameters are overwritten. After the first every byte is compared with the files, after every later
 * one the digests of all parameters with those of the first. Neither is timed. The slowest rank counts. With a peer, both
 * systems alternate.
 */
export async function measureGpu(options: GpuMeasurement): Promise<GpuResult> {
  const { checkpoint, ranks, python, repeat, host } = options
  const step = options.onStep ?? (() => undefined)
  step('touching host memory')
  await touch(host, checkpoint.bytes * (options.peer ? 2.3 : 1.15)) // the bytes that each system copies, with some reserve
  step('starting processes')
  await using cluster = await Cluster.start({
    ranks,
    backend: 'cuda',
    keepAlive: true,
    // Ranks read each other's memory in direct updates, so they must be able to map it.
    shareMemory: options.strategy === 'direct',
    timeoutMs: 120_000,
    engine: { kind: 'python', python, checkpoint: checkpoint.directory },
  })
  await using peers = options.peer ? await PeerCluster.start({ python, ranks, checkpoint: checkpoint.directory }) : undefined
  const own = new Own(cluster, options)
  const preparation = await own.prepare(step)
  const kept: UpdateReport[][] = []
  const update = async () => void kept.push(await own.update(true))
  const theirs = peers && (await inTurns(options, new Peer(peers, options, own.digests), update, step))
  for (let i = 0; theirs === undefined && i < repeat; i++) {
    step(`update ${i + 1} of ${repeat}, keeping`)
    await update()
  }
  const measure = options.strategy === 'direct' ? directRuns : broadcastRuns
  const { runs, released } = await measure(options, own, preparation, kept, step)
  return { runs, peers: theirs === undefined ? [] : comparisons(options, preparation, theirs, kept, released) }
}

/** Alternates updates of ours and the peer's: this many with the peer's defaults, and this many with its best settings. */
async function inTurns(
  { repeat }: GpuMeasurement,
  peer: Peer,
  update: () => Promise<void>,
  step: (step: string) => void,
): Promise<PeerFacts> {
  const preparation = await peer.prepare(step)
  const turns = async (what: string) => {
    const samples: PeerSample[] = []
    for (let i = 0; i < repeat; i++) {
      step(`update ${i + 1} of ${repeat}, the peer ${what}`)
      await update()
      samples.push(await peer.update())
    }
    return samples
  }
  const asItComes = await turns('as it comes')
  step('the peer’s best bucket size')
  const bestBucket = await peer.keepCommunicator()
  const atItsBest = await turns('at its best')
  return { ...preparation, version: peer.version, parametersEqual: peer.parametersEqual, asItComes, atItsBest, bestBucket }
}

interface Measured {
  readonly runs: ReferenceRun[]
  /** Samples of updates that released everything. */
  readonly released: readonly UpdateReport[][]
}

/** Measures updates that keep ring and communicator, and the same number that do not. */
async function broadcastRuns(
  options: GpuMeasurement,
  own: Own,
  preparation: OwnPreparation,
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
  step('without verification')
  const common = {
    unverifiedMs: await unverified(options, own),
    peakHostBytes: await own.peakHostBytes(),
    peakDeviceBytes: mostLost(without, before),
  }
  const facts = { ...preparation, parametersEqual: own.parametersEqual, registrationsMs: own.registerMs }
  const runs = [
    gpuRun(options, facts, kept, { ...common, variant: 'kept' }),
    gpuRun(options, facts, released, { ...common, variant: 'released', growthBytes: mostLost(without, after) }),
  ]
  return { runs, released }
}

/** Direct updates keep neither ring nor collective, so there is nothing to release. */
async function directRuns(
  options: GpuMeasurement,
  own: Own,
  preparation: OwnPreparation,
  kept: readonly UpdateReport[][],
  step: (step: string) => void,
): Promise<Measured> {
  const before = await own.freeBytes()
  step('without verification')
  const rest = {
    unverifiedMs: await unverified(options, own),
    peakHostBytes: await own.peakHostBytes(),
    peakDeviceBytes: Math.max(...kept.flat().map((report) => report.ringBytes)),
    growthBytes: mostLost(before, await own.freeBytes()),
    variant: 'kept',
  } as const
  const facts = { ...preparation, parametersEqual: own.parametersEqual, registrationsMs: own.registerMs }
  return { runs: [gpuRun(options, facts, kept, rest)], released: [] }
}

const unverified = ({ repeat }: GpuMeasurement, own: Own) =>
  timesOf(repeat, async () => slowest(await own.update(true, 'none')))

/** Returns the decrease of free memory, on the GPU where it is largest. */
const mostLost = (then: readonly number[], later: readonly number[]) =>
  Math.max(...then.map((free, rank) => free - later[rank]!))

/** Released communicators have ended by then. */
const settle = () => new Promise((resolve) => setTimeout(resolve, 2000))

/** A virtual machine may get its memory only when it is first touched: the measurement does not include this. */
async function touch(host: Host, bytes: number): Promise<void> {
  const memory = await host.allocate({ bytes: Math.ceil(bytes), lock: false })
  memory.close()
}
