import { timelineOf, type UpdateReport } from '@ckpt/core'
import type { GeneratedCheckpoint } from '@ckpt/testing'
import type { Model } from '@ckpt/models'
import type { Gpus, PeerRun, ReferenceRun } from '../../result.ts'
import { summarize, type Samples } from '../../statistics.ts'
import { account } from '../account.ts'
import { lowestLevel, slowest } from '../updates.ts'

/** Maximum spans of a run's timelines, over all ranks. */
const MAX_SPANS = 4000

/** Subject of a measurement: a checkpoint, over GPUs, with a strategy. */
export interface GpuSubject {
  readonly model: Pick<Model, 'id' | 'title'>
  readonly checkpoint: Pick<GeneratedCheckpoint, 'scale'>
  readonly ranks: number
  readonly gpus: Pick<Gpus, 'h2dBytesPerSecond'>
  readonly strategy: 'broadcast' | 'direct'
}

/** A system's steps before its first timed update: times of the slowest rank, in milliseconds. */
export interface Preparation {
  readonly registerMs: number
  readonly registerInPlaceMs: number
  readonly gatherMetasMs: number
  readonly gatherMetasAgainMs: Samples
}

export interface OwnPreparation extends Preparation {
  readonly firstAttachMs: number
  readonly parameterBytes: number
}

export interface OwnFacts extends OwnPreparation {
  /** True if all parameters were right after every update. */
  readonly parametersEqual: boolean
  /** Times of the registrations that updates had of their own. */
  readonly registrationsMs: readonly number[]
}

export interface PeerFacts extends Preparation {
  readonly version: string
  readonly asItComes: readonly PeerSample[]
  readonly atItsBest: readonly PeerSample[]
  /** In GiB. */
  readonly bestBucket: number
  readonly parametersEqual: boolean
}

/** One update of the peer: the slowest rank's time, the maximum device memory that a rank allocated. */
export interface PeerSample {
  readonly milliseconds: number
  readonly peakDeviceBytes: number
}

/**
 * Returns the result of one kind of update from its samples, each the reports of all ranks; stages and timelines are those of
 * the median one.
 */
export function gpuRun(
  subject: GpuSubject,
  facts: OwnFacts,
  samples: readonly (readonly UpdateReport[])[],
  rest: Pick<ReferenceRun, 'unverifiedMs' | 'peakHostBytes' | 'peakDeviceBytes' | 'variant'> & { growthBytes?: number },
): ReferenceRun {
  const { model, checkpoint, ranks } = subject
  const times = samples.map(slowest)
  const updateMs = summarize(times)
  const median = samples[times.indexOf([...times].sort((a, b) => a - b)[Math.floor(times.length / 2)]!)]!
  const stage = (name: keyof UpdateReport['stages']) => Math.max(...median.map((report) => report.stages[name]))
  const stepMs = (name: keyof UpdateReport['steps']) => Math.max(...median.map((report) => report.steps[name]))
  const first = median[0]!
  const limit = limitOf(subject, median)
  return {
    model: model.id,
    title: model.title,
    scale: checkpoint.scale,
    backend: 'cuda',
    strategy: subject.strategy,
    ...(first.direct && { direct: account(median) }),
    ranks,
    bytes: first.bytes,
    tensors: first.tensors,
    gatherMetasMs: facts.gatherMetasMs,
    gatherMetasAgainMs: facts.gatherMetasAgainMs,
    firstAttachMs: facts.firstAttachMs,
    registerMs: summarize(facts.registrationsMs).median,
    freshRegistration: true,
    registerInPlaceMs: facts.registerInPlaceMs,
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
    verificationCost: updateMs.median / rest.unverifiedMs.median - 1,
    limit,
    ratioToLimit: updateMs.median / limit.updateMs,
    verified: lowestLevel(samples.flat()),
    parametersEqual: facts.parametersEqual,
    parameterBytes: facts.parameterBytes,
    digest: first.digest,
    ringBytes: first.ringBytes,
    bucketBytes: first.bucketBytes,
    mode: `${first.mode}: ${first.modeReason}`,
    ...(first.order && { order: first.order }),
    timelines: median.map((report) => timelineOf(report, { maxSpans: Math.floor(MAX_SPANS / ranks) })),
  }
}

/**
 * Compares both systems. The peer's updates reuse one registration. The first updates that keep ring and communicator alternated with the peer's defaults, as many as it
 * has samples; the others with its best settings.
 */
export function comparisons(
  subject: GpuSubject,
  own: OwnPreparation,
  peer: PeerFacts,
  kept: readonly (readonly UpdateReport[])[],
  released: readonly (readonly UpdateReport[])[],
): PeerRun[] {
  const { ranks, model } = subject
  const limit = limitOf(subject, kept[0]!).updateMs
  const compare = (what: string, oursMs: Samples, peerMs: Samples, more: Partial<PeerRun> = {}): PeerRun => ({
    peer: 'checkpoint-engine',
    version: peer.version,
    what,
    model: model.id,
    ranks,
    oursMs,
    peerMs,
    ratio: peerMs.median / oursMs.median,
    ...more,
  })
  const update = (what: string, ours: readonly (readonly UpdateReport[])[], theirs: readonly PeerSample[]) => {
    const peerMs = summarize(theirs.map(({ milliseconds }) => milliseconds))
    return compare(what, summarize(ours.map(slowest)), peerMs, {
      ratioToLimit: peerMs.median / limit,
      peakDeviceBytes: Math.max(...theirs.map(({ peakDeviceBytes }) => peakDeviceBytes)),
      parametersEqual: peer.parametersEqual,
      freshRegistration: false,
    })
  }
  const { asItComes, atItsBest } = peer
  const once = (value: number) => summarize([value])
  return [
    update('update, as it comes (auto_pg=True)', kept.slice(0, asItComes.length), asItComes),
    ...(released.length > 0 ? [update('update, as it comes, ours releasing everything', released, asItComes)] : []),
    update(`update, at its best (auto_pg=False, ${peer.bestBucket} GiB buckets)`, kept.slice(asItComes.length), atItsBest),
    compare('registration with a copy', once(own.registerMs), once(peer.registerMs)),
    compare('registration in place', once(own.registerInPlaceMs), once(peer.registerInPlaceMs)),
    compare('first gatherMetas, communicator included', once(own.gatherMetasMs + own.firstAttachMs), once(peer.gatherMetasMs)),
    compare('gatherMetas again', own.gatherMetasAgainMs, peer.gatherMetasAgainMs),
  ]
}

/** Returns the time for the bytes that must cross host links, each once, at the rate measured in the same run. */
function limitOf({ gpus, ranks }: GpuSubject, reports: readonly UpdateReport[]): ReferenceRun['limit'] {
  const bytesPerSecond = gpus.h2dBytesPerSecond
  const bytes = needed(reports)
  const how = `${bytes} bytes over the host links of ${ranks} GPUs, all at once, as measured in this run`
  return { bytesPerSecond, updateMs: (bytes / bytesPerSecond) * 1000, how }
}

/**
 * Bytes that must cross host links, each once: all of the checkpoint, or in a direct update the bytes that the engine workers
 * need.
 */
function needed(reports: readonly UpdateReport[]): number {
  const { bytes, direct } = reports[0]!
  return direct?.bytes ? direct.bytes.nodeNeeded + direct.bytes.opaque : bytes
}
