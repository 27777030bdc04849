import { statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { CkptError } from '@ckpt/contract'
import { Option, type Command } from 'commander'
import { chosenEngine } from '../choices/engine.ts'
import { ownPlace } from '../choices/place.ts'
import { sharesMemory, STRATEGIES, strategyOf, type StrategyChoice } from '../choices/strategy.ts'
import { interruptible } from '../interrupt.ts'
import { parseCount } from '../sizes.ts'
import { RankProgress, tell } from '../terminal/progress.ts'
import { UsageError } from '../usage.ts'
import { userPath } from '../user-path.ts'
import { byVersion, Versions } from '../watch/versions.ts'
import {
  addRankOptions,
  createRank,
  digestsWanted,
  startedRanks,
  updateEngines,
  type Rank,
  type RankOptions,
} from './engine-update.ts'

interface WatchOptions extends RankOptions {
  readonly strategy: StrategyChoice
  readonly interval: number
  readonly settle: number
  readonly readyFile?: string
  readonly onlyNew?: boolean
  readonly count?: number
  readonly retry: number
}

/** What a rank sees and wants before the next step. */
interface View {
  /** Complete versions after the last one. */
  readonly versions: readonly string[]
  readonly isEnding: boolean
}

/** Waiting time after the first failure of a version in milliseconds; it doubles with each further one. */
const PAUSE_MS = 5000
const LONGEST_PAUSE_MS = 60_000

/** Adds `ckpt watch`. */
export function addWatch(program: Command): void {
  const command = program
    .command('watch')
    .description('update engines whenever a new version is complete: a directory of safetensors files below DIR')
    .argument('<directory>', 'directory that holds a directory for each version, such as step-10')
  addRankOptions(command)
    .addOption(new Option('--strategy <name>', 'as of `ckpt update`').choices(STRATEGIES).default('auto'))
    .addOption(new Option('--interval <seconds>', 'time between looks at the directory').argParser(parseCount(1)).default(2))
    .addOption(
      new Option('--settle <seconds>', 'time for which the files of a version without an index must be unchanged')
        .argParser(parseCount(0))
        .default(5),
    )
    .option('--ready-file <name>', 'file that completes a version (default: all files that its index names are whole)')
    .option('--only-new', 'leave out the versions that are there at the start')
    .addOption(new Option('--count <n>', 'end after this many updates').argParser(parseCount(1)))
    .addOption(
      new Option('--retry <n>', 'further attempts at once after a failure that may pass').argParser(parseCount(0)).default(0),
    )
    .action(async (directory: string, options: WatchOptions) => {
      check(directory, options)
      if (await startedRanks(options)) return
      await interruptible((signal) => watch(userPath(directory), options, signal))
    })
}

/** @throws UsageError before any rank is started. */
function check(directory: string, options: WatchOptions): void {
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(directory)) {
    throw new UsageError(`<directory> ${directory}: object storage cannot be watched yet; expected a directory of this machine`)
  }
  if (!statSync(userPath(directory), { throwIfNoEntry: false })?.isDirectory()) {
    throw new UsageError(`<directory> ${directory}: no such directory; expected one that holds a directory for each version`)
  }
  if (options.readyFile?.includes('/'))
    throw new UsageError(`--ready-file ${options.readyFile}: expected a name without a directory`)
  chosenEngine(options)
}

async function watch(directory: string, options: WatchOptions, signal: AbortSignal): Promise<void> {
  const { interval, settle, readyFile, count = Infinity } = options
  const versions = new Versions(directory, { settleMs: settle * 1000, ...(readyFile !== undefined && { readyFile }) })
  const shareMemory = sharesMemory(options.strategy, ownPlace().localWorldSize, [])
  await using rank = await createRank(options, signal, { shareMemory })
  const { server } = rank
  let last = options.onlyNew ? (await allSee(rank, { versions: await versions.complete(), isEnding: false })).newest : undefined
  if (server.rank === 0) tell(`watching ${directory} every ${interval} s until SIGINT or SIGTERM`)
  const failures = { version: '', number: 0, until: 0 }
  let done = 0
  for (let round = 0; ; round++) {
    if (round > 0) await pause(interval * 1000, signal)
    const found = signal.aborted ? [] : await versions.complete(last)
    const wanted = performance.now() < failures.until ? found.filter((name) => byVersion(failures.version, name) < 0) : found
    const { newest, isEnding } = await allSee(rank, { versions: wanted, isEnding: signal.aborted })
    if (isEnding) break
    if (newest === undefined) continue
    try {
      await updateTo(rank, newest, join(directory, newest), options)
    } catch (error) {
      if (server.health().state === 'not ready') throw error // ranks are missing: no further version can be agreed on
      failures.number = failures.version === newest ? failures.number + 1 : 1
      failures.version = newest
      const waitMs = Math.min(PAUSE_MS * 2 ** (failures.number - 1), LONGEST_PAUSE_MS)
      failures.until = performance.now() + waitMs
      const { code, message } = CkptError.from(error, 'UPDATE_FAILED')
      const next = `again in ${waitMs / 1000} s, unless a newer version is complete`
      tell(`rank ${server.rank}: version ${newest} failed: ${code}: ${message}; ${next}`)
      continue
    }
    last = newest
    if (++done >= count) break
  }
  process.exitCode = 0 // ending on request is not a failure
}

/** Tells all ranks what this one sees. @returns the newest version that all of them see, and if one of them ends */
async function allSee(
  { server }: Rank,
  own: View,
): Promise<{ readonly newest: string | undefined; readonly isEnding: boolean }> {
  const views = await server.exchange('watch', own)
  const [first, ...others] = views
  const common = first!.versions.filter((name) => others.every(({ versions }) => versions.includes(name)))
  return { newest: common.sort(byVersion).at(-1), isEnding: views.some(({ isEnding }) => isEnding) }
}

/** Registers a version on all ranks, updates the engines, and releases the version's memory for the next one. */
async function updateTo(rank: Rank, version: string, path: string, options: WatchOptions): Promise<void> {
  const { server } = rank
  const own = await register(rank, version, path, options).then(
    () => null,
    (error: unknown) => CkptError.from(error, 'CHECKPOINT_UNREADABLE').with({ rank: server.rank }),
  )
  try {
    const all = await server.exchange('watch/registered', own?.toJSON() ?? null)
    const failed = all.find((error) => error !== null)
    if (failed !== undefined) throw own ?? CkptError.deserialize(failed)
    await server.gatherMetas(version, { digests: digestsWanted(options) })
    const more = {
      bar: `update ${version}`,
      strategy: strategyOf(options.strategy, server.worldSize),
      retry: options.retry,
      version,
    }
    const { spans: _, ...report } = await updateEngines(rank, version, options, undefined, more)
    if (options.json) process.stdout.write(`${JSON.stringify(report)}\n`)
    else if (server.rank === 0) {
      const { tensors, bytes, totalMs, how, verified } = report
      process.stdout.write(
        `version ${version}: ${tensors} tensors, ${(bytes / 1e9).toFixed(3)} GB in ${totalMs.toFixed(1)} ms; ${how}; verified: ${verified}\n`,
      )
    }
  } finally {
    if (own === null) await server.unregisterCheckpoint(version, { force: true })
  }
}

async function register({ server }: Rank, version: string, path: string, options: WatchOptions): Promise<void> {
  using bar = new RankProgress(`register ${version}`, server, !options.json)
  await server.registerCheckpoint(
    version,
    { directory: path },
    {
      // Memory stays for the next version, and so do copies that are prepared for it.
      pool: 'shared',
      share: { index: server.rank, count: server.worldSize },
      onProgress: (done, total) => bar.update(done, total),
    },
  )
}

async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  await sleep(milliseconds, undefined, { signal }).catch(() => undefined)
}
