import { timelineOf, type UpdateReport, type VerificationLevel } from '@ckpt/core'
import type { Model } from '@ckpt/models'
import type { ProcessorReading } from '@ckpt/planner'
import type { ReferenceRun } from '../result.ts'
import { account } from './account.ts'
import { poisonAll } from './engines.ts'
import { summarize } from '../statistics.ts'
import { WARM_UP, type Beside } from './calibrate.ts'
import type { CeilingProbe } from './ceilings.ts'
import { Updates, inShm, lowestLevel, slowest, type UpdatesOptions } from './updates.ts'

/** Maximum spans that a run keeps of its last update: enough to see every stall, but a small part of the JSON. */
const MAX_SPANS = 4000
const FIRST = 'first'

export interface UpdateMeasurement extends UpdatesOptions {
  readonly model: Pick<Model, 'id' | 'title'>
  readonly repeat: number
  /** Readings of the copy ceiling, one right before each sample. */
  readonly copyCeiling: CeilingProbe
  /** Calibrates the machine for the simulator, right before and right after each sample. */
  readonly beside?: Beside
}

/** What the updates of one measurement brought, a sample each. */
interface Samples {
  readonly verified: UpdateReport[][]
  readonly unverified: UpdateReport[][]
  /** What registering took before the update of the same index, in milliseconds. */
  readonly registering: { readonly verified: number[]; readonly unverified: number[] }
  /** Copy rate of all cores right before each verified update, in bytes a second. */
  readonly ceilings: number[]
  readonly readings: [ProcessorReading, ProcessorReading][]
  parametersEqual: boolean
  parameterBytes: number
}

/**
 * Measures updates of one checkpoint over separate processes: rank processes, each with an engine worker that keeps its
 * tensor-parallel slices. Each update has its own registration; verified and unverified ones alternate. Before each update all
 * parameters are overwritten, and after it every byte is compared with the files; neither is timed. The slowest rank counts.
 * The copy ceiling is measured before every sample, which is then compared with that reading. Updates for the simulator, which
 * does not model verification, are unverified and reuse one registration.
 */
export async function measureUpdate(options: UpdateMeasurement): Promise<ReferenceRun | { skipped: string }> {
  const { checkpoint, ranks, repeat, strategy, beside } = options
  const direct = strategy === 'direct'
  if (direct && !inShm(checkpoint) && ranks > 1)
    return { skipped: 'the checkpoint does not fit into /dev/shm, where ranks could share it' }
  const verify = beside ? 'none' : 'bytes'
  await using updates = await Updates.start(options)
  const measurement = new Measurement(options, updates, verify)
  // The first update creates ring and collective, which are kept: it is not a sample.
  await measurement.update(FIRST, verify)
  if (direct) {
    const [report] = await measurement.update('first direct', verify)
    if (report!.strategy !== 'direct') return { skipped: report!.direct?.fallback ?? 'no update was direct' }
    // The second one is compared with the loader's own result on one layer, as only every hundredth is afterwards.
    if (verify !== 'none') await measurement.update('second direct', verify)
  }
  // As often as the updates it is compared with.
  if (beside) for (let i = 2; i < WARM_UP; i++) await updates.update(`warm-up ${i}`, verify)
  for (let i = 0; i < repeat; i++) {
    // Each goes first equally often.
    const levels: VerificationLevel[] = verify === 'none' ? ['none'] : i % 2 === 0 ? [verify, 'none'] : ['none', verify]
    for (const level of levels) await measurement.sample(i, level)
  }
  return runOf(options, updates, measurement.samples, await updates.resources())
}

/** Takes the samples of one run. */
class Measurement {
  readonly samples: Samples = {
    verified: [],
    unverified: [],
    registering: { verified: [], unverified: [] },
    ceilings: [],
    readings: [],
    parametersEqual: true,
    parameterBytes: 0,
  }
  readonly #options: UpdateMeasurement
  readonly #updates: Updates
  readonly #verify: VerificationLevel
  #lastRegisteredMs = 0

  constructor(options: UpdateMeasurement, updates: Updates, verify: VerificationLevel) {
    this.#options = options
    this.#updates = updates
    this.#verify = verify
  }

  /** One update of overwritten parameters, whose bytes are compared with the files afterwards. */
  async update(version: string, level: VerificationLevel, beside?: Beside): Promise<UpdateReport[]> {
    const { onStep, checkpoint } = this.#options
    const { engines } = this.#updates
    const isFresh = this.#options.beside === undefined && version !== FIRST
    this.#lastRegisteredMs = isFresh ? await this.#updates.register(level !== 'none') : 0
    await poisonAll(engines)
    const before = await beside?.read()
    onStep?.(`update ${version}`)
    const reports = await this.#updates.update(version, level)
    const after = await beside?.read()
    if (before && after) this.samples.readings.push([before, after])
    onStep?.(`comparing the files after ${version}`)
    const checks = await Promise.all(engines.map((engine) => engine.verify(checkpoint.files)))
    this.samples.parametersEqual &&= checks.every((check) => check.verified)
    this.samples.parameterBytes = checks.reduce((sum, check) => sum + check.bytes, 0)
    return reports
  }

  /** An update right after a reading of the ceiling, which leaves nothing of the checkpoint in the processors' caches. */
  async sample(index: number, level: VerificationLevel): Promise<void> {
    const { copyCeiling, repeat, beside } = this.#options
    const ceiling = await copyCeiling.read()
    const isTimed = level === this.#verify
    const version = `${isTimed ? '' : 'unverified '}sample ${index + 1} of ${repeat}`
    const reports = await this.update(version, level, beside)
    const kind = isTimed ? 'verified' : 'unverified'
    this.samples[kind].push(reports)
    this.samples.registering[kind].push(this.#lastRegisteredMs)
    if (!isTimed) return
    this.samples.ceilings.push(ceiling)
    const moved = movedBytes(this.#options, reports, this.samples.parameterBytes)
    await this.#updates.recordLimit(reports, (moved / ceiling) * 1000)
  }
}

/** Bytes that H2D, broadcast and reload of one update must move. */
function movedBytes({ strategy, ranks }: UpdateMeasurement, reports: readonly UpdateReport[], parameterBytes: number): number {
  const written = strategy === 'direct' ? account(reports) : undefined
  if (written) return written.h2dBytes + written.forwardedBytes
  // Pulled bytes are copied into the sending socket and out of the receiving one, where H2D is one copy.
  return reports[0]!.bytes * (strategy === 'p2p' ? ranks + 1 : ranks) + parameterBytes
}

function runOf(
  options: UpdateMeasurement,
  updates: Updates,
  samples: Samples,
  resources: readonly { readonly peakResidentBytes: number }[],
): ReferenceRun {
  const { model, checkpoint, ranks, strategy } = options
  const { verified, unverified, registering, parameterBytes, parametersEqual, readings } = samples
  const times = verified.map(slowest)
  const updateMs = summarize(times)
  const cost = unverified.length > 0 && costOf(times, unverified.map(slowest), registering)
  const median = verified[times.indexOf([...times].sort((a, b) => a - b)[Math.floor(times.length / 2)]!)]!
  const stage = (name: keyof UpdateReport['stages']) => Math.max(...median.map((report) => report.stages[name]))
  const first = median[0]!
  const last = verified.at(-1)!
  const sum = (value: (report: UpdateReport) => number) => last.reduce((total, report) => total + value(report), 0)
  return {
    model: model.id,
    title: model.title,
    scale: checkpoint.scale,
    backend: 'host',
    strategy,
    ...(strategy === 'direct' && { direct: account(median) }),
    ranks,
    bytes: first.bytes,
    tensors: first.tensors,
    gatherMetasMs: updates.gatherMetasMs,
    registerMs: summarize(updates.registerMs).median,
    freshRegistration: !options.beside,
    updateMs,
    stages: { h2dMs: stage('h2dMs'), broadcastMs: stage('broadcastMs'), reloadMs: stage('reloadMs'), idleMs: stage('idleMs') },
    unverifiedMs: unverified.length === 0 ? updateMs : summarize(unverified.map(slowest)),
    ...(cost ? cost : { verificationCost: 0 }),
    peakDeviceBytes: Math.max(...median.map((report) => report.ringBytes)),
    peakHostBytes: Math.max(...resources.map((one) => one.peakResidentBytes)),
    ...limitOf(options, samples, median, times),
    ...(readings.length > 0 && { readings }),
    verified: lowestLevel(verified.flat()),
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

/** What the machine can do at best, and the updates held against it. */
function limitOf(
  options: UpdateMeasurement,
  { ceilings, parameterBytes }: Samples,
  median: readonly UpdateReport[],
  times: readonly number[],
): Pick<ReferenceRun, 'limit' | 'ratioToLimit' | 'ratios'> {
  const moved = movedBytes(options, median, parameterBytes)
  const limits = ceilings.map((bytesPerSecond) => (moved / bytesPerSecond) * 1000)
  const ratios = summarize(times.map((milliseconds, i) => milliseconds / limits[i]!))
  const staged = `${options.strategy === 'p2p' ? 'both ends of the pull' : 'H2D'}, broadcast and reload must move`
  const what = options.strategy === 'direct' ? 'have to be written to parameters' : staged
  return {
    limit: {
      bytesPerSecond: summarize(ceilings).median,
      updateMs: summarize(limits).median,
      how: `${moved} bytes that ${what}, at the copy rate of all cores read right before each update; the ratio is the median of the updates' own`,
    },
    ratioToLimit: ratios.median,
    ratios,
  }
}

/**
 * Returns the cost of verification, from pairs of a verified update and the unverified one right after it, which removes noise
 * slower than a pair.
 */
export function costOf(
  verified: readonly number[],
  unverified: readonly number[],
  registering: { readonly verified: readonly number[]; readonly unverified: readonly number[] },
): Pick<ReferenceRun, 'verificationCost' | 'stepMs' | 'unverifiedStepMs' | 'stepVerificationCost'> {
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
