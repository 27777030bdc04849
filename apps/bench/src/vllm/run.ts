import type { UpdateReport } from '@ckpt/core'
import { lowestLevel } from '../measure/updates.ts'
import type { EngineRun, EngineStrategy, EngineUpdate, HowBytes, PeerRun } from '../result.ts'
import { summarize, type Samples } from '../statistics.ts'
import type { OwnStep } from './own.ts'
import type { PeerStep } from './peer.ts'
import type { OwnTurn, PeerSetting, PeerTurn } from './turns.ts'

/** A turn of ours with what it brought. */
export interface OwnSample {
  readonly turn: OwnTurn
  readonly step: OwnStep
  readonly answersEqual: boolean
}

/** A turn of the peer with what it brought. */
export interface PeerSample {
  readonly turn: PeerTurn
  readonly step: PeerStep
  readonly answersEqual: boolean
}

/** What all runs of one measurement share. */
export type EngineSubject = Pick<
  EngineRun,
  'model' | 'title' | 'scale' | 'backend' | 'engine' | 'engineVersion' | 'quantization' | 'ranks' | 'limit'
>

/** Returns the run of one strategy from its turns; stages, steps and ways are those of the median timed update. */
export function engineRun(
  subject: EngineSubject,
  requested: EngineStrategy,
  samples: readonly OwnSample[],
  more: { readonly peakHostBytes: number; readonly isFirst: boolean },
): EngineRun {
  const timed = ofKind(samples, 'timed')
  const streamed = ofKind(samples, 'streamed').filter(({ step }) => step.longestTokenGapMs !== undefined)
  const [first] = ofKind(samples, 'first')
  const updateMs = times(timed, 'updateMs')
  const median = medianOf(timed).step.reports
  const [report] = median
  const gaps = streamed.map(({ step }) => step.longestTokenGapMs!)
  const how = howOf(median)
  const fallback = report!.direct?.fallback
  return {
    ...subject,
    requested,
    strategy: report!.strategy,
    source: 'files',
    bytes: report!.bytes,
    tensors: report!.tensors,
    registerMs: times(timed, 'registerMs').median,
    gatherMetasMs: times(timed, 'gatherMetasMs').median,
    freshRegistration: true,
    ...(more.isFirst && first && { firstUpdateMs: first.step.updateMs, firstGatherMetasMs: first.step.gatherMetasMs }),
    updateMs,
    stages: slowestOf(median.map(({ stages }) => stages)),
    steps: slowestOf(median.map(({ steps }) => steps)),
    stepMs: wholeSteps(timed),
    ...(gaps.length > 0 && {
      pause: { longestTokenGapMs: summarize(gaps).median, gaps, updateMs: times(streamed, 'updateMs') },
    }),
    ...(how && { how }),
    ...(fallback !== undefined && { fallback }),
    peakDeviceBytes: Math.max(...timed.flatMap(({ step }) => step.reports.map(({ ringBytes }) => ringBytes))),
    peakHostBytes: more.peakHostBytes,
    ratioToLimit: updateMs.median / subject.limit.updateMs,
    verified: lowestLevel(timed.flatMap(({ step }) => step.reports)),
    answersEqual: samples.every(({ answersEqual }) => answersEqual),
    digest: report!.digest,
    updates: samples.map(updateOf),
  }
}

/**
 * Returns how the bytes of one update reached the parameters, from its reports. Undefined for an update of which a part was
 * replayed and a part loaded: reports count only its tensors.
 */
export function howOf([report]: readonly UpdateReport[]): HowBytes | undefined {
  const { strategy, direct, bytes, tensors } = report!
  const none = { direct: 0, replayed: 0, staged: 0, opaque: 0 }
  if (strategy === 'direct') return direct?.bytes && { ...none, direct: direct.bytes.nodeNeeded, opaque: direct.bytes.opaque }
  const replayed = direct?.replayed ?? 0
  if (replayed === 0) return { ...none, staged: bytes }
  return replayed === tensors ? { ...none, replayed: bytes } : undefined
}

/** Compares both systems on one server, with one setting of the peer: its timed updates and ours that alternated with them. */
export function peerRuns(
  subject: EngineSubject,
  version: string,
  setting: PeerSetting,
  own: readonly OwnSample[],
  peer: readonly PeerSample[],
): PeerRun[] {
  const ours = ofKind(own, 'timed').filter(({ turn }) => turn.beside === setting)
  const all = peer.filter(({ turn }) => turn.beside === setting)
  const theirs = ofKind(all, 'timed')
  if (ours.length === 0 || theirs.length === 0) return []
  const { model, ranks, limit } = subject
  const how = setting === 'auto' ? 'as it comes (auto_pg=True)' : 'auto_pg=False'
  const compare = (what: string, oursMs: Samples, peerMs: Samples, extra: Partial<PeerRun> = {}): PeerRun => ({
    peer: 'checkpoint-engine',
    version,
    what: `${what}, ${how}`,
    engine: 'vllm',
    model,
    ranks,
    oursMs,
    peerMs,
    ratio: peerMs.median / oursMs.median,
    freshRegistration: true,
    ...extra,
  })
  const peerMs = times(theirs, 'updateMs')
  const [ownFirst, peerFirst] = [ofKind(own, 'first')[0], ofKind(all, 'first')[0]]
  return [
    compare('update', times(ours, 'updateMs'), peerMs, {
      ratioToLimit: peerMs.median / limit.updateMs,
      peakDeviceBytes: Math.max(...theirs.map(({ step }) => step.peakDeviceBytes)),
      answersEqual: all.every(({ answersEqual }) => answersEqual),
    }),
    compare('registration', times(ours, 'registerMs'), times(theirs, 'registerMs')),
    compare('gatherMetas', times(ours, 'gatherMetasMs'), times(theirs, 'gatherMetasMs')),
    compare('whole step', wholeSteps(ours), wholeSteps(theirs)),
    ...(ownFirst && peerFirst ? [compare('first update', times([ownFirst], 'updateMs'), times([peerFirst], 'updateMs'))] : []),
  ]
}

function updateOf({ turn, step, answersEqual }: OwnSample): EngineUpdate {
  const { registerMs, gatherMetasMs, updateMs, reports, longestTokenGapMs } = step
  return {
    checkpoint: turn.checkpoint,
    kind: turn.kind,
    strategy: reports[0]!.strategy,
    how: reports[0]!.how,
    ...{ registerMs, gatherMetasMs, updateMs },
    steps: slowestOf(reports.map(({ steps }) => steps)),
    stages: slowestOf(reports.map(({ stages }) => stages)),
    verified: lowestLevel(reports),
    answersEqual,
    ...(longestTokenGapMs !== undefined && { longestTokenGapMs }),
  }
}

interface Timed {
  readonly step: { readonly registerMs: number; readonly gatherMetasMs: number; readonly updateMs: number }
}

const ofKind = <T extends OwnSample | PeerSample>(samples: readonly T[], kind: T['turn']['kind']): T[] =>
  samples.filter(({ turn }) => turn.kind === kind)

const times = (samples: readonly Timed[], name: keyof Timed['step']): Samples =>
  summarize(samples.map(({ step }) => step[name]))

const wholeSteps = (samples: readonly Timed[]): Samples =>
  summarize(samples.map(({ step }) => step.registerMs + step.gatherMetasMs + step.updateMs))

function medianOf(samples: readonly OwnSample[]): OwnSample {
  return [...samples].sort((a, b) => a.step.updateMs - b.step.updateMs)[Math.floor(samples.length / 2)]!
}

/** Largest value of each field. */
function slowestOf<T extends object>(values: readonly T[]): T {
  const names = Object.keys(values[0]!) as (keyof T)[]
  const pairs = names.map((name) => [name, Math.max(...values.map((value) => Number(value[name])))] as const)
  return Object.fromEntries(pairs) as T
}
