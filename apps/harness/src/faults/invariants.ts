import { readdirSync, readFileSync, statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { poll } from '@ckpt/utils'
import { chain, describe, type Outcome } from './outcome.ts'
import type { Fault, FaultContext } from './fault.ts'
import { CHECKPOINT, type FaultCluster } from './fault-cluster.ts'

/** Allowed time beyond the heartbeat window for a survivor's error, and beyond the deadline for a call. */
export const GRACE_MS = 1000
/** Time for which a rank waits for its worker to answer an abort before it reports the error. */
const ABORT_MS = 2000
/** Time for resources that are released in the background. */
const SETTLE_MS = 2000

/**
 * Returns what is wrong with the ends of the calls; nothing if all is well. A random moment may come after the end.
 * `injectedAt` by `performance.now()`.
 */
export function callBreaks(
  fault: Fault,
  { cluster, victim, point, strategy }: FaultContext,
  outcomes: readonly Outcome[],
  injectedAt: number,
): string[] {
  const { windowMs, timeoutMs } = cluster.options
  // Over several hosts every strategy pulls.
  const pulls = point !== 'gather' && (strategy === 'p2p' || cluster.hostOf(victim) !== undefined)
  const codes = [...fault.codes, ...(pulls ? (fault.pullCodes ?? []) : [])]
  const breaks: string[] = []
  const say = (rank: number, what: string) => breaks.push(`rank ${rank} ${what}`)
  for (const { rank, state, error, typed, at } of outcomes) {
    const survivor = rank !== victim || fault.spares !== 'victim'
    const took = at - injectedAt
    if (state === 'hung') say(rank, 'hung past its deadline')
    if (state === 'failed' && !typed && survivor) say(rank, `threw something that is not a CkptError: ${describe(error)}`)
    if (!survivor) continue
    if (state === 'failed' && fault.expect === 'succeeds') say(rank, `failed: ${describe(error)}`)
    if (state === 'succeeded' && fault.expect === 'fails' && point !== 'any') say(rank, 'succeeded')
    if (state !== 'failed' || error === undefined || fault.expect === 'succeeds') continue
    const errors = chain(error)
    // An engine that does not answer before an update may be starting, so it is waited for.
    const waits = fault.within === 'deadline' || errors.some(({ code }) => code === 'ENGINE_UNREACHABLE')
    const limit = waits ? timeoutMs + ABORT_MS + GRACE_MS : windowMs + GRACE_MS
    if (took > limit) say(rank, `only knew after ${Math.round(took)} ms: ${describe(error)}`)
    if (!errors.some(({ code }) => codes.includes(code))) say(rank, `reports a different cause: ${describe(error)}`)
    // A rank that is cut off itself sees the coordinator as lost.
    const culprits = rank === victim ? [victim, 0] : [victim]
    if (!errors.some((one) => culprits.some((culprit) => names(one, culprit, fault.names))))
      say(rank, `does not name the cause: ${describe(error)}`)
  }
  return breaks
}

function names(
  error: { message: string; fields: Readonly<Record<string, unknown>> },
  victim: number,
  pattern?: RegExp,
): boolean {
  const { message, fields } = error
  if (pattern !== undefined) return pattern.test(message)
  const { rank, ranks, member } = fields
  if (rank === victim || member === victim || (Array.isArray(ranks) && ranks.includes(victim))) return true
  return new RegExp(`\\b(rank|member) ${victim}\\b`).test(message)
}

/** Used bytes of /dev/shm. */
export function sharedBytes(): number {
  const { blocks, bfree, bsize } = statfsSync('/dev/shm')
  return (blocks - bfree) * bsize
}

/** Bytes that live ranks keep there for their beacons: a page each. */
function beaconBytes(): number {
  return readdirSync('/dev/shm').filter((name) => name.startsWith('ckpt-near-')).length * statfsSync('/dev/shm').bsize
}

/**
 * Returns leftovers of processes that should not exist while none of them is in an update; `alone` means that no other process
 * uses /dev/shm.
 */
export async function leftoverBreaks(cluster: FaultCluster, alone: boolean, sharedBefore: number): Promise<string[]> {
  let breaks: string[] = []
  const settled = (): Promise<true | undefined> => {
    breaks = leftoversNow(cluster, alone, sharedBefore)
    return Promise.resolve(breaks.length === 0 ? true : undefined)
  }
  await poll(settled, { timeoutMs: SETTLE_MS, longestPauseMs: 50 })
  return breaks
}

function leftoversNow(cluster: FaultCluster, alone: boolean, sharedBefore: number): string[] {
  const breaks: string[] = []
  const ours = new Set([...cluster.pids, ...cluster.dead])
  const running = new Set(cluster.pids)
  for (const pid of cluster.dead) if (!running.has(pid) && isThere(pid)) breaks.push(`process ${pid} is still there`)
  for (const name of readdirSync('/dev/shm')) {
    const pid = /^ckpt-(\d+)-/.exec(name)?.[1]
    if (pid !== undefined && (alone || ours.has(Number(pid)))) breaks.push(`/dev/shm/${name} was left`)
  }
  const runtime = process.env['XDG_RUNTIME_DIR'] ?? tmpdir()
  for (const name of readdirSync(runtime)) {
    const pid = Number(/^ckpt-(\d+)-\w{6}$/.exec(name)?.[1])
    if (!ours.has(pid)) continue
    const path = join(runtime, name)
    if (cluster.dead.has(pid)) breaks.push(`${path} of a dead process was left`)
    else
      breaks.push(
        ...readdirSync(path)
          .filter((file) => file.startsWith('worker-'))
          .map((file) => `socket ${path}/${file} was left`),
      )
  }
  for (const rank of cluster.everybody) {
    const host = cluster.hostOf(rank)
    if (host) breaks.push(...ringsOf(host.path('/dev/shm')).map((name) => `/dev/shm/${name} was left on ${host.name}`))
  }
  const more = sharedBytes() - beaconBytes() - sharedBefore
  if (alone && more > 0) breaks.push(`${more} bytes of device memory (/dev/shm) were left`)
  return breaks
}

/** Names of device memory in a directory. Process ids there are those of its host. */
function ringsOf(directory: string): string[] {
  return readdirSync(directory).filter((name) => /^ckpt-\d+-/.test(name))
}

/**
 * Returns true if a child of this process still exists; its number may meanwhile belong to a different process, or to a thread.
 */
function isThere(pid: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1])
    return !/^State:\s+Z/m.test(status) && field('PPid') === process.pid && field('Tgid') === pid
  } catch {
    return false
  }
}

/**
 * Updates all engines from the registered checkpoint and compares every parameter with the files. Returns nothing if all is
 * well.
 */
export async function updateBreaks(cluster: FaultCluster, version: string): Promise<string[]> {
  try {
    await Promise.all(cluster.engines.map((engine) => engine.poison()))
    await Promise.all(cluster.everybody.map((rank) => cluster.update(rank, { version })))
    const states = await Promise.all(
      cluster.engines.map(async (engine) => ({
        ...(await engine.verify(cluster.options.checkpoint.files)),
        ...(await engine.health()),
      })),
    )
    return states.flatMap((state, rank) => {
      const wrong: string[] = []
      if (!state.verified)
        wrong.push(`${state.mismatches.length} parameters of engine ${rank} are wrong: ${state.mismatches[0]}`)
      if (state.version !== version) wrong.push(`engine ${rank} serves ${state.version}, not ${version}`)
      if (state.dirty) wrong.push(`engine ${rank} is still dirty`)
      return wrong
    })
  } catch (error) {
    return [`the next update of ${CHECKPOINT} failed: ${error instanceof Error ? describeAny(error) : String(error)}`]
  }
}

function describeAny(error: Error): string {
  return describe(error as Parameters<typeof describe>[0])
}
