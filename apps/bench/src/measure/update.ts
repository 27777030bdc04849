import { timelineOf, type UpdateReport, type VerificationLevel } from '@ckpt/core'
import type { Model } from '@ckpt/models'
import type { ProcessorReading } from '@ckpt/planner'
import type { Run } from '../result.ts'
import { account } from './account.ts'
import { poisonAll } from './engines.ts'
import { summarize } from '../statistics.ts'
import { WARM_UP, type Beside } from './calibrate.ts'
import type { CeilingProbe } from './ceilings.ts'
import { Updates, inShm, lowestLevel, slowest, type UpdatesOptions } from './updates.ts'

/** Spans that a run keeps of its last update: enough to see every stall, little beside the rest of the JSON when there are many. */
const MAX_SPANS = 4000
const FIRST = 'first'

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
 * slices. Each has a registration of its own, and they take turns: one that is verified, one that is not. Before each update all parameters
 * are overwritten, after it every byte is compared with the files; neither is timed. The slowest rank counts. The copy ceiling is read before
 * every sample, which is then held against that reading. What is held against the simulator, which knows no verification, is not verified
 * and reuses one registration.
 */
export async function measureUpdate(options: UpdateMeasurement): Promise<Run | { skipped: string }> {
  const { model, checkpoint, ranks, repeat, onStep, strategy } = options
  const direct = strategy === 'direct'
  const pulls = strategy === 'p2p'
  if (direct && !inShm(checkpoint) && ranks > 1)
    return { skipped: 'the checkpoint does not fit into /dev/shm, where ranks could share it' }
  await using updates = await Updates.start(options)
  const samples: UpdateReport[][] = []
  const unverified: UpdateReport[][] = []
  /** What registering took before the update of the same index. */
  const registering = { verified: [] as number[], unverified: [] as number[] }
  const readings: [ProcessorReading, ProcessorReading][] = []
  const freshRegistration = !options.beside
  const verify = options.beside ? 'none' : 'bytes'
  let parametersEqual = true
  let parameterBytes = 0
  let lastRegistered = 0
  const update = async (version: string, level: VerificationLevel, beside?: Beside): Promise<UpdateReport[]> => {
    const registered = freshRegistration && version !== FIRST ? await updates.register(level !== 'none') : 0
    await poisonAll(updates.engines)
    const before = await beside?.read()
    onStep?.(`update ${version}`)
    const reports = await updates.update(version, level)
    const after = await beside?.read()
    if (before && after) readings.push([before, after])
    onStep?.(`comparing the files after ${version}`)
    const checks = await Promise.all(updates.engines.map((engine) => engine.verify(checkpoint.files)))
    parametersEqual &&= checks.every((check) => check.verified)
    parameterBytes = checks.reduce((sum, check) => sum + check.bytes, 0)
    lastRegistered = registered
    return reports
  }
  /** What H2D, broadcast and reload of one update must move. */
  const movedBytes = (reports: readonly UpdateReport[]) => {
    const written = direct ? account(reports) : undefined
    if (written) return written.h2dBytes + written.forwardedBytes
    // What is pulled is copied into the sending socket and out of the receiving one, where H2D is one copy.
    return reports[0]!.bytes * (pulls ? ranks + 1 : ranks) + parameterBytes
  }
  // The first update makes ring and collective, which are kept: it is not a sample.
  await update(FIRST, verify)
  if (direct) {
    const [report] = await update('first direct', verify)
    if (report!.strategy !== 'direct') return { skipped: report!.direct?.fallback ?? 'no update was direct' }
    // The second one is compared with the loader's own result on one layer, as only each hundredth is afterwards.
    if (verify !== 'none') await update('second direct', verify)
  }
  // As often as what it is held against.
  if (options.beside) for (let i = 2; i < WARM_UP; i++) await updates.update(`warm-up ${i}`, verify)
  const ceilings: number[] = []
  /** Each update comes right after a reading of the ceiling, which leaves nothing of the checkpoint in the processors' caches. */
  const sample = async (i: number, level: VerificationLevel): Promise<void> => {
    const ceiling = await options.copyCeiling.read()
    const timed = level === verify
    const reports = await update(`${timed ? '' : 'unverified '}sample ${i + 1} of ${repeat}`, level, options.beside)
    ;(timed ? samples : unverified).push(reports)
    registering[timed ? 'verified' : 'unverified'].push(lastRegistered)
    if (!timed) return
    ceilings.push(ceiling)
    await updates.recordLimit(reports, (movedBytes(reports) / ceiling) * 1000)
  }
  for (let i = 0; i < repeat; i++) {
    // Each goes first as often as the other.
    const levels: VerificationLevel[] = verify === 'none' ? ['none'] : i % 2 === 0 ? [verify, 'none'] : ['none', verify]
    for (const level of levels) await sample(i, level)
  }
  const resources = await updates.resources()

  const times = samples.map(slowest)
  const updateMs = summarize(times)
  const unverifiedMs = verify === 'none' ? updateMs : summarize(unverified.map(slowest))
  const cost = verify !== 'none' && costOf(samples.map(slowest), unverified.map(slowest), registering)
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
    registerMs: summarize(updates.registerMs).median,
    freshRegistration,
    updateMs,
    stages: { h2dMs: stage('h2dMs'), broadcastMs: stage('broadcastMs'), reloadMs: stage('reloadMs'), idleMs: stage('idleMs') },
    unverifiedMs,
    ...(cost ? cost : { verificationCost: 0 }),
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
    verified: lowestLevel(samples.flat()),
    parametersEqual,
    parameterBytes,
    digest: first.digest,
    ringBytes: first.ringBytes,
    bucketBytes: first.bucketBytes,
    mode: `${first.mode}: ${first.modeReason}`,
    ...(first.order && { order: first.order }),
    moved: {
      h2dBytes: sum((report) => report.h2dBytes),
      broadcastBytes: sum((report) => report.broadcastBytes),
      reloadBytes: parameterBytes,
    },
    timelines: last.map((report) => timelineOf(report, { maxSpans: Math.floor(MAX_SPANS / ranks) })),
  }
}

/** What verification adds, by pairs of a verified update and the unverified one right after it: noise that is slower than a pair leaves. */
export function costOf(
  verified: readonly number[],
  unverified: readonly number[],
  registering: { readonly verified: readonly number[]; readonly unverified: readonly number[] },
): Pick<Run, 'verificationCost' | 'stepMs' | 'unverifiedStepMs' | 'stepVerificationCost'> {
  const sums = (updates: readonly number[], registrations: readonly number[]) =>
    updates.map((milliseconds, i) => milliseconds + registrations[i]!)
  const pairs = (with_: readonly number[], without: readonly number[]) =>
    summarize(with_.map((milliseconds, i) => milliseconds / without[i]! - 1)).median
  const steps = sums(verified, registering.verified)
  const bare = sums(unverified, registering.unverified)
  return {
    verificationCost: pairs(verified, unverified),
    stepMs: summarize(steps),
    unverifiedStepMs: summarize(bare),
    stepVerificationCost: pairs(steps, bare),
  }
}
