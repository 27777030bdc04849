import { linkSync, mkdirSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { CkptError, type Host } from '@ckpt/contract'
import { timelineOf, type UpdateReport } from '@ckpt/core'
import { Cluster, type GeneratedCheckpoint } from '@ckpt/harness'
import type { Model } from '@ckpt/models'
import { PeerCluster } from '../peer/ranks.ts'
import type { Gpus, PeerRun, Run } from '../result.ts'
import { summarize, type Samples } from '../statistics.ts'
import { account } from './account.ts'
import { digestsOf, poisonAll, sameDigests } from './engines.ts'
import { slowest } from './updates.ts'

/** Bucket sizes in GiB of which the peer gets the best. */
const PEER_BUCKETS = [0.5, 1, 2]
const NAME = 'bench'
/** Spans of a run's timelines, all ranks together. */
const MAX_SPANS = 4000

export interface GpuMeasurement {
  readonly model: Pick<Model, 'id' | 'title'>
  readonly checkpoint: Omit<GeneratedCheckpoint, keyof Disposable>
  readonly ranks: number
  readonly repeat: number
  readonly gpus: Gpus
  readonly python: string
  readonly host: Host
  readonly strategy: 'broadcast' | 'direct'
  /** Measure checkpoint-engine in the same run, alternating. */
  readonly peer: boolean
  readonly bucketBytes?: number
  readonly chunkBytes?: number
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
  await using peer = options.peer ? await PeerCluster.start({ python, ranks, checkpoint: checkpoint.directory }) : undefined
  const turns = new Turns(options, cluster, peer)

  step('registering in place')
  await turns.registerInPlace()
  step('registering with a copy')
  await turns.registerByCopy()
  step('gathering metas')
  await turns.gather()
  step('first updates')
  await turns.first()
  const kept: UpdateReport[][] = []
  const asItComes: PeerSample[] = []
  const atItsBest: PeerSample[] = []
  for (let i = 0; i < repeat; i++) {
    step(`update ${i + 1} of ${repeat}, keeping`)
    kept.push(await turns.own(true))
    if (peer !== undefined) asItComes.push(await turns.peer())
  }
  let bestBucket = 0
  if (peer !== undefined) {
    step('the peer’s best bucket size')
    bestBucket = await turns.peerBestBucket()
    for (let i = 0; i < repeat; i++) {
      step(`update ${i + 1} of ${repeat}, the peer at its best`)
      kept.push(await turns.own(true))
      atItsBest.push(await turns.peer())
    }
  }
  if (options.strategy === 'direct') return await directResult(turns, cluster, kept, asItComes, atItsBest, bestBucket)
  const before = await turns.freeBytes()
  const released: UpdateReport[][] = []
  await turns.own(false)
  await settle()
  const without = await turns.freeBytes()
  for (let i = 0; i < repeat; i++) {
    step(`update ${i + 1} of ${repeat}, releasing`)
    released.push(await turns.own(false))
  }
  await settle()
  const after = await turns.freeBytes()
  step('with digests')
  const digested = await turns.own(true, true)
  const extra = Math.max(...without.map((free, rank) => free - before[rank]!))
  const grown = Math.max(...without.map((free, rank) => free - after[rank]!))
  const resources = await cluster.all('resources', () => undefined)
  const common = {
    digestUpdateMs: slowest(digested),
    peakHostBytes: Math.max(...resources.map((one) => one.peakResidentBytes)),
  }
  const runs = [
    turns.run(kept, { ...common, variant: 'kept', peakDeviceBytes: extra }),
    turns.run(released, { ...common, variant: 'released', peakDeviceBytes: extra, growthBytes: grown }),
  ]
  const peers = peer === undefined ? [] : turns.comparisons(kept, asItComes, atItsBest, bestBucket, released)
  return { runs, peers }
}

/** Direct updates keep neither ring nor collective: there is nothing to release. */
async function directResult(
  turns: Turns,
  cluster: Cluster,
  kept: readonly UpdateReport[][],
  asItComes: readonly PeerSample[],
  atItsBest: readonly PeerSample[],
  bestBucket: number,
): Promise<GpuResult> {
  const free = await turns.freeBytes()
  const digested = await turns.own(true, true)
  const after = await turns.freeBytes()
  const resources = await cluster.all('resources', () => undefined)
  const run = turns.run(kept, {
    digestUpdateMs: slowest(digested),
    peakHostBytes: Math.max(...resources.map((one) => one.peakResidentBytes)),
    peakDeviceBytes: Math.max(...kept.flat().map((report) => report.ringBytes)),
    growthBytes: Math.max(...free.map((bytes, rank) => bytes - after[rank]!)),
    variant: 'kept',
  })
  const peers = asItComes.length === 0 ? [] : turns.comparisons(kept, asItComes, atItsBest, bestBucket, [])
  return { runs: [run], peers }
}

interface PeerSample {
  readonly milliseconds: number
  readonly peakDeviceBytes: number
}

/** What is measured, turn by turn. */
class Turns {
  readonly #options: GpuMeasurement
  readonly #cluster: Cluster
  readonly #peer: PeerCluster | undefined
  #reference = new Map<string, string>()
  #ownVerified = true
  #peerVerified = true
  #verifiedBytes = 0
  #register = { own: 0, ownInPlace: 0, peer: 0, peerInPlace: 0 }
  #gather = { own: 0, peer: 0 }
  #again: { own: Samples; peer: Samples | undefined } | undefined
  #firstAttachMs = 0

  constructor(options: GpuMeasurement, cluster: Cluster, peer: PeerCluster | undefined) {
    this.#options = options
    this.#cluster = cluster
    this.#peer = peer
  }

  /** Both systems pin the files where they are, one after the other, and give that back. The peer removes what it pins, so it gets links. */
  async registerInPlace(): Promise<void> {
    const { checkpoint } = this.#options
    this.#register.ownInPlace = await this.#registerTwice('in place', true)
    await this.#cluster.all('unregister', () => ({ name: 'in place' }))
    const peer = this.#peer
    if (peer === undefined) return
    const directory = join(dirname(checkpoint.directory), `${basename(checkpoint.directory)}-links`)
    mkdirSync(directory, { mode: 0o700 })
    try {
      const links = checkpoint.files.map((file) => join(directory, basename(file)))
      checkpoint.files.forEach((file, index) => linkSync(file, links[index]!))
      const shares = this.#shares(links)
      const inPlace = await peer.all('register', (rank) => ({ name: 'in place', files: shares[rank], inplace: true }))
      this.#register.peerInPlace = inPlace.milliseconds
      await peer.all('unregister', () => ({ name: 'in place' }))
    } finally {
      rmSync(directory, { recursive: true, force: true })
    }
  }

  /**
   * Both systems copy the files' bytes to pinned memory, one after the other, and keep that: it is what updates read. Files in place
   * have small pages, which some machines read several percent slower than what the limit is measured with.
   */
  async registerByCopy(): Promise<void> {
    const { checkpoint } = this.#options
    this.#register.own = await this.#registerTwice(NAME, false)
    if (this.#peer === undefined) return
    const shares = this.#shares(checkpoint.files)
    const peer = await this.#peer.all('register', (rank) => ({ name: NAME, files: shares[rank], inplace: false }))
    this.#register.peer = peer.milliseconds
  }

  /** Metas are gathered for the first time, and again. */
  async gather(): Promise<void> {
    const own = async () => Math.max(...(await this.#cluster.all('gatherMetas', () => ({ name: NAME }))).map(milliseconds))
    this.#gather.own = await own()
    const ownAgain = await this.#times(own)
    this.#again = { own: ownAgain, peer: undefined }
    const peer = this.#peer
    if (peer === undefined) return
    const theirs = async () => (await peer.all('gather', () => ({ name: NAME }))).milliseconds
    this.#gather.peer = await theirs()
    this.#again = { own: ownAgain, peer: await this.#times(theirs) }
  }

  /** The first updates make parameters, ring and communicator: they are no samples. Every byte is compared with the files. */
  async first(): Promise<void> {
    const reports = await this.#update(true, false)
    this.#firstAttachMs = Math.max(...reports.map((report) => report.steps.attachMs))
    this.#options.onStep?.('comparing every byte with the files')
    const { engines } = this.#cluster
    const checks = await Promise.all(engines.map((engine) => engine.verify(this.#options.checkpoint.files)))
    this.#ownVerified = checks.every((check) => check.verified)
    this.#verifiedBytes = checks.reduce((sum, check) => sum + check.bytes, 0)
    this.#reference = await digestsOf(engines)
    // Prepares what is prepared per bucket; where the strategy is direct this one is recorded, and the next one prepared.
    await this.own(true)
    if (this.#options.strategy === 'direct') {
      const [report] = await this.own(true)
      if (report!.strategy !== 'direct') {
        throw new CkptError(
          'UNSUPPORTED',
          `no direct update: ${report!.direct?.fallback ?? ''} (${report!.direct?.recorded ?? ''})`,
        )
      }
    }
    if (this.#peer === undefined) return
    await this.peer()
    await this.peer()
  }

  /** One update of our engines, checked. */
  async own(keepAlive: boolean, verify = false): Promise<UpdateReport[]> {
    await poisonAll(this.#cluster.engines)
    const reports = await this.#update(keepAlive, verify)
    this.#ownVerified &&= sameDigests(this.#reference, await digestsOf(this.#cluster.engines))
    return reports
  }

  /** One update of the peer's engines, checked. */
  async peer(): Promise<PeerSample> {
    const peer = this.#peer!
    await poisonAll(peer.engines)
    const sample = await peer.all('update', () => ({ name: NAME }))
    this.#peerVerified &&= sameDigests(this.#reference, await digestsOf(peer.engines))
    return sample
  }

  /** Keeps the peer's communicator from now on; the bucket size with which it is fastest, in GiB. */
  async peerBestBucket(): Promise<number> {
    await this.#peer!.all('keep_communicator')
    let best = { gigabytes: 0, milliseconds: Infinity }
    for (const gigabytes of PEER_BUCKETS) {
      await this.#peer!.all('bucket', () => ({ gigabytes }))
      for (let i = 0; i < 2; i++) {
        const { milliseconds } = await this.peer()
        if (i > 0 && milliseconds < best.milliseconds) best = { gigabytes, milliseconds }
      }
    }
    await this.#peer!.all('bucket', () => ({ gigabytes: best.gigabytes }))
    return best.gigabytes
  }

  /** Free memory of each rank's GPU. */
  async freeBytes(): Promise<number[]> {
    return (await this.#cluster.all('deviceMemory', () => undefined)).map(({ free }) => free)
  }

  run(
    samples: readonly UpdateReport[][],
    rest: Pick<Run, 'digestUpdateMs' | 'peakHostBytes' | 'peakDeviceBytes' | 'variant'> & { growthBytes?: number },
  ): Run {
    const { model, checkpoint, ranks } = this.#options
    const times = samples.map(slowest)
    const updateMs = summarize(times)
    const median = samples[times.indexOf([...times].sort((a, b) => a - b)[Math.floor(times.length / 2)]!)]!
    const stage = (name: keyof UpdateReport['stages']) => Math.max(...median.map((report) => report.stages[name]))
    const stepMs = (name: keyof UpdateReport['steps']) => Math.max(...median.map((report) => report.steps[name]))
    const first = median[0]!
    return {
      model: model.id,
      title: model.title,
      scale: checkpoint.scale,
      backend: 'cuda',
      strategy: this.#options.strategy,
      ...(first.direct && { direct: account(median) }),
      ranks,
      bytes: first.bytes,
      tensors: first.tensors,
      gatherMetasMs: this.#gather.own,
      ...(this.#again && { gatherMetasAgainMs: this.#again.own }),
      firstAttachMs: this.#firstAttachMs,
      registerMs: this.#register.own,
      registerInPlaceMs: this.#register.ownInPlace,
      updateMs,
      stages: {
        h2dMs: stage('h2dMs'),
        broadcastMs: stage('broadcastMs'),
        reloadMs: stage('reloadMs'),
        idleMs: stage('idleMs'),
      },
      steps: {
        beginMs: stepMs('beginMs'),
        planMs: stepMs('planMs'),
        attachMs: stepMs('attachMs'),
        pipelineMs: stepMs('pipelineMs'),
        commitMs: stepMs('commitMs'),
      },
      ...rest,
      limit: this.#limit(needed(median)),
      ratioToLimit: updateMs.median / this.#limit(needed(median)).updateMs,
      verified: this.#ownVerified,
      verifiedBytes: this.#verifiedBytes,
      digest: first.digest,
      ringBytes: first.ringBytes,
      bucketBytes: first.bucketBytes,
      mode: `${first.mode}: ${first.modeReason}`,
      ...(first.order && { order: first.order }),
      timelines: median.map((report) => timelineOf(report, { maxSpans: Math.floor(MAX_SPANS / ranks) })),
    }
  }

  comparisons(
    kept: readonly UpdateReport[][],
    asItComes: readonly PeerSample[],
    atItsBest: readonly PeerSample[],
    bestBucket: number,
    released: readonly UpdateReport[][],
  ): PeerRun[] {
    const { ranks, model } = this.#options
    const limit = this.#limit(needed(kept[0]!)).updateMs
    const compare = (what: string, own: Samples, peer: Samples, more: Partial<PeerRun> = {}): PeerRun => ({
      peer: 'checkpoint-engine',
      version: this.#peer!.version,
      what,
      model: model.id,
      ranks,
      oursMs: own,
      peerMs: peer,
      ratio: peer.median / own.median,
      ...more,
    })
    const update = (what: string, own: readonly UpdateReport[][], samples: readonly PeerSample[]) => {
      const peerMs = summarize(samples.map(({ milliseconds }) => milliseconds))
      return compare(what, summarize(own.map(slowest)), peerMs, {
        ratioToLimit: peerMs.median / limit,
        peakDeviceBytes: Math.max(...samples.map(({ peakDeviceBytes }) => peakDeviceBytes)),
        verified: this.#peerVerified,
      })
    }
    const half = kept.length - atItsBest.length
    const once = (value: number) => summarize([value])
    return [
      update('update, as it comes (auto_pg=True)', kept.slice(0, half), asItComes),
      ...(released.length > 0 ? [update('update, as it comes, ours releasing everything', released, asItComes)] : []),
      update(`update, at its best (auto_pg=False, ${bestBucket} GiB buckets)`, kept.slice(half), atItsBest),
      compare('registration with a copy', once(this.#register.own), once(this.#register.peer)),
      compare('registration in place', once(this.#register.ownInPlace), once(this.#register.peerInPlace)),
      compare(
        'first gatherMetas, communicator included',
        once(this.#gather.own + this.#firstAttachMs),
        once(this.#gather.peer),
      ),
      compare('gatherMetas again', this.#again!.own, this.#again!.peer!),
    ]
  }

  #limit(bytes: number): Run['limit'] {
    const { h2dBytesPerSecond } = this.#options.gpus
    const how = `${bytes} bytes over the host links of ${this.#options.ranks} GPUs, all at once, as measured in this run`
    return { bytesPerSecond: h2dBytesPerSecond, updateMs: (bytes / h2dBytesPerSecond) * 1000, how }
  }

  /** How long our second registration takes. The first is for the system: memory never pinned before takes several times as long. */
  async #registerTwice(name: string, inPlace: boolean): Promise<number> {
    const { directory } = this.#options.checkpoint
    await this.#cluster.register(name, directory, { inPlace })
    await this.#cluster.all('unregister', () => ({ name }))
    return Math.max(...(await this.#cluster.register(name, directory, { inPlace })).map(milliseconds))
  }

  #update(keepAlive: boolean, verify: boolean): Promise<UpdateReport[]> {
    const { bucketBytes, chunkBytes } = this.#options
    return this.#cluster.update(NAME, {
      strategy: this.#options.strategy,
      keepAlive,
      verify,
      version: NAME,
      ...(bucketBytes !== undefined && { bucketBytes }),
      ...(chunkBytes !== undefined && { chunkBytes }),
    })
  }

  /** The files dealt out evenly in order, as the peer's users do. */
  #shares(files: readonly string[]): string[][] {
    const { ranks } = this.#options
    return Array.from({ length: ranks }, (_, rank) =>
      files.slice(Math.round((files.length * rank) / ranks), Math.round((files.length * (rank + 1)) / ranks)),
    )
  }

  async #times(measure: () => Promise<number>): Promise<Samples> {
    const samples: number[] = []
    for (let i = 0; i < this.#options.repeat; i++) samples.push(await measure())
    return summarize(samples)
  }
}

/** Bytes that must cross host links, each once: all of the checkpoint, or in a direct update what the engine workers need of it. */
function needed(reports: readonly UpdateReport[]): number {
  const { bytes, direct } = reports[0]!
  return direct?.bytes ? direct.bytes.nodeNeeded + direct.bytes.opaque : bytes
}

const milliseconds = (answer: { readonly milliseconds: number }) => answer.milliseconds

/** The communicators that were let go are gone by then. */
const settle = () => new Promise((resolve) => setTimeout(resolve, 2000))

/** A virtual machine may get its memory only as it is first touched: that is no part of what is measured. */
async function touch(host: Host, bytes: number): Promise<void> {
  const memory = await host.allocate({ bytes: Math.ceil(bytes), lock: false })
  memory.close()
}
