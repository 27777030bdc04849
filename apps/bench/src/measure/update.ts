import { timelineOf, type UpdateReport } from '@ckpt/core'
import type { Model } from '@ckpt/models'
import type { ProcessorReading } from '@ckpt/planner'
import type { Run } from '../result.ts'
import { account } from './account.ts'
import { poisonAll } from './engines.ts'
import { summarize } from '../statistics.ts'
import { WARM_UP, type Beside } from './calibrate.ts'
import type { CeilingProbe } from './ceilings.ts'
import { Updates, inShm, slowest, type UpdatesOptions } from './updates.ts'

/** Spans that a run keeps of its last update: enough to see every stall, little beside the rest of the JSON when there are many. */
const MAX_SPANS = 4000

export interface UpdateMeasurement extends UpdatesOptions {
  readonly model: Pick<Model, 'id' | 'title'>
  readonly repeat: number
  /** Readings of the copy ceiling, one right before each sample. */
  readonly copyCeiling: CeilingProbe
  /** Reads the machine for the simulator, right before and right after each sample. */
  readonly beside?: Beside
}

/**
 * Updates of one checkpoint over processes of their own: rank processes, and an engine worker each that keeps its tensor-parallel
 * slices. Before each update all parameters are overwritten, after it every byte is compared with the files; neither is timed. The
 * slowest rank counts. The copy ceiling is read before every sample, which is then held against that reading.
 */
export async function measureUpdate(options: UpdateMeasurement): Promise<Run | { skipped: string }> {
  const { model, checkpoint, ranks, repeat, onStep, strategy } = options
  const direct = strategy === 'direct'
  const pulls = strategy === 'p2p'
  if (direct && !inShm(checkpoint) && ranks > 1)
    return { skipped: 'the checkpoint does not fit into /dev/shm, where ranks could share it' }
  await using updates = await Updates.start(options)
  const samples: UpdateReport[][] = []
  const readings: [ProcessorReading, ProcessorReading][] = []
  let verified = true
  let verifiedBytes = 0
  const updateAndVerify = async (version: string, digests = false, beside?: Beside): Promise<UpdateReport[]> => {
    await poisonAll(updates.engines)
    const before = await beside?.read()
    onStep?.(`update ${version}`)
    const reports = await updates.update(version, digests)
    const after = await beside?.read()
    if (before && after) readings.push([before, after])
    onStep?.(`verifying ${version}`)
    const checks = await Promise.all(updates.engines.map((engine) => engine.verify(checkpoint.files)))
    verified &&= checks.every((check) => check.verified)
    verifiedBytes = checks.reduce((sum, check) => sum + check.bytes, 0)
    return reports
  }
  /** What H2D, broadcast and reload of one update must move. */
  const movedBytes = (reports: readonly UpdateReport[]) => {
    const written = direct ? account(reports) : undefined
    if (written) return written.h2dBytes + written.forwardedBytes
    // What is pulled is copied into the sending socket and out of the receiving one, where H2D is one copy.
    return reports[0]!.bytes * (pulls ? ranks + 1 : ranks) + verifiedBytes
  }
  // The first update makes ring and collective, which are kept: it is not a sample.
  await updateAndVerify('first')
  if (direct) {
    const [report] = await updateAndVerify('first direct')
    if (report!.strategy !== 'direct') return { skipped: report!.direct?.fallback ?? 'no update was direct' }
  }
  // As often as what it is held against.
  if (options.beside) for (let i = 2; i < WARM_UP; i++) await updates.update(`warm-up ${i}`)
  const ceilings: number[] = []
  for (let i = 0; i < repeat; i++) {
    ceilings.push(await options.copyCeiling.read())
    const reports = await updateAndVerify(`sample ${i + 1} of ${repeat}`, false, options.beside)
    samples.push(reports)
    const limitMs = (movedBytes(reports) / ceilings[i]!) * 1000
    await updates.noteLimit(reports, limitMs)
  }
  const digested = await updateAndVerify('with digests', true)
  const resources = await updates.resources()

  const times = samples.map(slowest)
  const updateMs = summarize(times)
  const median = samples[times.indexOf([...times].sort((a, b) => a - b)[Math.floor(times.length / 2)]!)]!
  const stage = (name: keyof UpdateReport['stages']) => Math.max(...median.map((report) => report.stages[name]))
  const first = median[0]!
  const last = samples.at(-1)!
  const sum = (value: (report: UpdateReport) => number) => last.reduce((total, report) => total + value(report), 0)
  const written = direct ? account(median) : undefined
  const moved = movedBytes(median)
  const limits = ceilings.map((bytesPerSecond) => (moved / bytesPerSecond) * 1000)
  const ratio = summarize(times.map((milliseconds, i) => milliseconds / limits[i]!))
  return {
    model: model.id,
    title: model.title,
    scale: checkpoint.scale,
    backend: 'host',
    strategy,
    ...(written && { direct: written }),
    ranks,
    bytes: first.bytes,
    tensors: first.tensors,
    gatherMetasMs: updates.gatherMetasMs,
    registerMs: updates.registerMs,
    updateMs,
    stages: { h2dMs: stage('h2dMs'), broadcastMs: stage('broadcastMs'), reloadMs: stage('reloadMs'), idleMs: stage('idleMs') },
    digestUpdateMs: slowest(digested),
    peakDeviceBytes: Math.max(...median.map((report) => report.ringBytes)),
    peakHostBytes: Math.max(...resources.map((one) => one.peakResidentBytes)),
    limit: {
      bytesPerSecond: summarize(ceilings).median,
      updateMs: summarize(limits).median,
      how: `${moved} bytes that ${direct ? 'have to be written to parameters' : `${pulls ? 'both ends of the pull' : 'H2D'}, broadcast and reload must move`}, at the copy rate of all cores read right before each update; the ratio is the median of the updates' own`,
    },
    ratioToLimit: ratio.median,
    ratios: ratio,
    ...(readings.length > 0 && { readings }),
    verified,
    verifiedBytes,
    digest: first.digest,
    ringBytes: first.ringBytes,
    bucketBytes: first.bucketBytes,
    mode: `${first.mode}: ${first.modeReason}`,
    ...(first.order && { order: first.order }),
    moved: {
      h2dBytes: sum((report) => report.h2dBytes),
      broadcastBytes: sum((report) => report.broadcastBytes),
      reloadBytes: verifiedBytes,
    },
    timelines: last.map((report) => timelineOf(report, { maxSpans: Math.floor(MAX_SPANS / ranks) })),
  }
}
