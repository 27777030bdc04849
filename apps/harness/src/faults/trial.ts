import { setTimeout as sleep } from 'node:timers/promises'
import { CkptError } from '@ckpt/contract'
import { atPoint, type Random, type RankPoint } from '@ckpt/testing'
import type { Fault, FaultContext, Point, Undo } from './fault.ts'
import { STRATEGIES, type FaultCluster, type StrategyName } from './fault-cluster.ts'
import { callBreaks, GRACE_MS, leftoverBreaks, sharedBytes, updateBreaks } from './invariants.ts'
import { describe, outcome, type Outcome } from './outcome.ts'
import { scratch, type RegisterFault } from './register-faults.ts'
import { messageAt } from './worker-faults.ts'

/** Result of one fault at one point. */
export interface TrialResult {
  readonly trial: number
  readonly fault: string
  readonly point: Point
  /** Strategy of the update; absent if there is none. */
  readonly strategy?: StrategyName
  readonly victim: number
  /** Result of the survivors' calls. */
  readonly state: 'failed' | 'succeeded' | 'mixed'
  /** Codes that survivors saw, outermost first. */
  readonly codes: readonly string[]
  /** Time from the fault to the last survivor's error, in milliseconds; absent if none failed. */
  readonly errorMs?: number
  readonly totalMs: number
  /** Broken invariants. */
  readonly breaks: readonly string[]
  readonly errors: readonly string[]
}

const HELD_IN_RANK: readonly string[] = ['begin', 'plan', 'h2d', 'broadcast'] satisfies RankPoint[]
const ANY_MS = 120
/** Time for reading half a gigabyte, in deadlines of other waits: a busy disk or machine is not a hang. */
const REGISTER_DEADLINES = 5

/** Settings of the campaign for a trial. */
export interface TrialSetting {
  readonly cluster: FaultCluster
  readonly random: Random
  readonly number: number
  /** True if only the campaign uses /dev/shm. */
  readonly alone: boolean
  /** Longest random moment of an update, in milliseconds (default 120: about as long as one takes on the host device). */
  readonly anyMs?: number
  /** Strategies to choose from (default: those that the fault can affect). */
  readonly strategies?: readonly StrategyName[]
}

/** Runs one fault in an update (or a gather) that all ranks call. Leaves the cluster repaired. */
export async function updateTrial(setting: TrialSetting, fault: Fault, point: Point): Promise<TrialResult> {
  const { cluster, random, number } = setting
  const { windowMs, timeoutMs } = cluster.options
  const started = performance.now()
  const sharedBefore = sharedBytes()
  const victim = fault.victims === 'coordinator' ? 0 : random.between(fault.victims === 'member' ? 1 : 0, cluster.size - 1)
  const strategy = random.pick((setting.strategies ?? STRATEGIES).filter((one) => fault.strategies?.includes(one) ?? true))
  const context: FaultContext = { cluster, victim, point, strategy, random }
  const unprepare = await fault.prepare?.(context)
  if (point !== 'gather') await cluster.prepare(strategy)
  await fault.arm?.(context)
  const { calls, reached } =
    point === 'gather' ? gather(context) : await update(context, fault, `trial-${number}`, setting.anyMs ?? ANY_MS)
  await reached
  const injectedAt = performance.now()
  const undo = await fault.inject?.(context)
  const limit = injectedAt + 2 * timeoutMs + 2 * windowMs + GRACE_MS - performance.now()
  calls.start?.()
  const outcomes = calls.all.map((call, rank) => outcome(rank, call, limit))
  void goOn(cluster, victim)
  await undoInTime(fault, context, undo, outcomes)
  const ended = await Promise.all(outcomes)
  await unprepare?.()

  const breaks = callBreaks(fault, context, ended, injectedAt)
  const lost = { nobody: [], victim: [victim], everybody: cluster.everybody }[fault.lost]
  await cluster.heal(lost)
  breaks.push(...(await updateBreaks(cluster, `after-${number}`)))
  breaks.push(...(await leftoverBreaks(cluster, setting.alone, sharedBefore)))
  const survivors = ended.filter(({ rank }) => rank !== victim || fault.spares !== 'victim')
  const done = result(number, fault.name, point, victim, survivors, injectedAt, started, breaks)
  return point === 'gather' ? done : { ...done, strategy }
}

interface Calls {
  /** By rank. */
  readonly all: Promise<unknown>[]
  /** Makes the victim's call, if it follows the fault. */
  readonly start?: () => void
}

async function update(
  context: FaultContext,
  fault: Fault,
  version: string,
  anyMs: number,
): Promise<{ calls: Calls; reached: Promise<void> }> {
  const { cluster, victim, point, strategy, random } = context
  const inject = fault.inject !== undefined
  let reached: Promise<void> = Promise.resolve()
  if (inject && point === 'any') reached = sleep(random.between(0, anyMs))
  else if (inject && HELD_IN_RANK.includes(point)) {
    reached = atPoint(cluster.ranks[victim]!.process, point, cluster.options.timeoutMs)
  } else if (inject) {
    const message = messageAt(context)
    await cluster.engines[victim]!.fault({ ...message, action: 'hold' })
    reached = atPoint(cluster.engines[victim]!.process, message.at, cluster.options.timeoutMs)
  }
  const hold = inject && HELD_IN_RANK.includes(point) ? { hold: { at: point as RankPoint, bucket: random.between(0, 3) } } : {}
  const all = cluster.everybody.map((rank) => cluster.update(rank, { version, strategy, ...(rank === victim && hold) }))
  for (const call of all) call.catch(() => undefined) // outcomes are collected once the fault has happened
  return { calls: { all }, reached }
}

/** The others wait in the gather when the fault happens; the victim's call follows it. */
function gather({ cluster, victim }: FaultContext): { calls: Calls; reached: Promise<void> } {
  const call = (rank: number) => cluster.ranks[rank]!.call('gatherMetas', { name: 'a' })
  let begin: () => void = () => undefined
  const later = new Promise<void>((resolve) => (begin = resolve)).then(() => call(victim))
  const all = cluster.everybody.map((rank) => (rank === victim ? later : call(rank)))
  for (const one of all) one.catch(() => undefined)
  return { calls: { all, start: begin }, reached: sleep(30) }
}

/** Releases everything that is held, running or not. */
async function goOn(cluster: FaultCluster, victim: number): Promise<void> {
  cluster.engines[victim]!.go()
  await cluster.ranks[victim]!.call('go', undefined).catch(() => undefined)
}

async function undoInTime(
  fault: Fault,
  context: FaultContext,
  undo: Undo,
  outcomes: readonly Promise<Outcome>[],
): Promise<void> {
  if (undo === undefined) return
  if (typeof fault.undo === 'function') await sleep(fault.undo(context))
  else {
    const awaited = fault.undo === 'survivors' ? outcomes.filter((_, rank) => rank !== context.victim) : outcomes
    await Promise.all(awaited)
  }
  await undo()
}

/** Runs one fault while a rank registers a different checkpoint, while one is already registered. */
export async function registerTrial(setting: TrialSetting, fault: RegisterFault): Promise<TrialResult> {
  const { cluster, random, number } = setting
  const { timeoutMs } = cluster.options
  const started = performance.now()
  const sharedBefore = sharedBytes()
  const victim = random.between(0, cluster.size - 1)
  const rank = cluster.ranks[victim]!
  const { directory, remove } = scratch()
  const breaks: string[] = []
  let ended: Outcome
  const injectedAt = performance.now()
  try {
    const { file, during, undo } = await fault.arrange(directory, rank)
    const begun = during && atPoint(rank.process, 'register', timeoutMs)
    begun?.then(during, () => undefined)
    const options = { pool: 'private' as const }
    const call = rank.call('register', { name: 'b', source: { files: [file] }, options, watch: during !== undefined })
    ended = await outcome(victim, call, REGISTER_DEADLINES * timeoutMs)
    undo?.()
    breaks.push(...registerBreaks(fault, file, ended))
    // The name is free again after a failure, and taken after a success.
    if (fault.kills) await rank.process.stop('SIGKILL')
    else if (ended.state === 'failed') {
      await rank.call('register', { name: 'b', source: { files: [cluster.options.checkpoint.files[0]!] }, options })
    }
    if (!fault.kills) await rank.call('unregister', { name: 'b' })
  } catch (error) {
    breaks.push(`the rank does not continue: ${describe(CkptError.from(error, 'UPDATE_FAILED'))}`)
    ended = { rank: victim, state: 'hung', typed: true, at: performance.now() }
  } finally {
    remove()
  }
  await cluster.heal([])
  breaks.push(...(await updateBreaks(cluster, `after-${number}`)))
  breaks.push(...(await leftoverBreaks(cluster, setting.alone, sharedBefore)))
  return result(number, fault.name, 'register', victim, [ended], injectedAt, started, breaks)
}

function registerBreaks(fault: RegisterFault, file: string, { rank, state, error, typed }: Outcome): string[] {
  if (state === 'hung') return [`rank ${rank} hung past its deadline`]
  if (state === 'succeeded') return fault.expect === 'fails' ? [`rank ${rank} registered it`] : []
  if (fault.expect === 'succeeds') return [`rank ${rank} failed: ${describe(error)}`]
  if (fault.kills) return [] // no process is left to report the reason
  const breaks: string[] = []
  if (!typed) breaks.push(`rank ${rank} threw something that is not a CkptError: ${describe(error)}`)
  if (!fault.codes.includes(error!.code)) breaks.push(`rank ${rank} reports a different cause: ${describe(error)}`)
  if (fault.namesFile && error!.fields.file !== file) breaks.push(`rank ${rank} does not name the file: ${describe(error)}`)
  return breaks
}

function result(
  trial: number,
  fault: string,
  point: Point,
  victim: number,
  survivors: readonly Outcome[],
  injectedAt: number,
  started: number,
  breaks: readonly string[],
): TrialResult {
  const failed = survivors.filter(({ state }) => state === 'failed')
  const state = failed.length === 0 ? 'succeeded' : failed.length === survivors.length ? 'failed' : 'mixed'
  return {
    trial,
    fault,
    point,
    victim,
    state,
    codes: [...new Set(failed.map(({ error }) => error!.code))].sort(),
    ...(failed.length > 0 && { errorMs: Math.max(...failed.map(({ at }) => at - injectedAt)) }),
    totalMs: performance.now() - started,
    breaks,
    errors: failed.map(({ rank, error }) => `rank ${rank}: ${describe(error)}`),
  }
}
