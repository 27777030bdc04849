import { statSync } from 'node:fs'
import { writeTrace, type CheckpointSource, type RegisterOptions } from '@ckpt/core'
import { InvalidArgumentError, Option, type Command } from 'commander'
import { chosenEngine } from '../choices/engine.ts'
import { fillIn, ownPlace, placeholdersIn } from '../choices/place.ts'
import { sharesMemory, STRATEGIES, strategyOf, type StrategyChoice } from '../choices/strategy.ts'
import { interruptible } from '../interrupt.ts'
import { parseCount, parsePort } from '../sizes.ts'
import { RankProgress } from '../terminal/progress.ts'
import { UsageError } from '../usage.ts'
import { userPath } from '../user-path.ts'
import {
  digestsWanted,
  addEngineUpdateOptions,
  createRank,
  handOn,
  held,
  printReport,
  startedRanks,
  updateEngines,
  type EngineUpdateOptions,
} from './engine-update.ts'

interface UpdateCommandOptions extends EngineUpdateOptions {
  /** Files, or one directory; empty with `from`. */
  readonly checkpoint?: string[]
  /** Socket of a trainer. */
  readonly from?: string
  readonly strategy: StrategyChoice
  readonly inPlace?: boolean
  readonly retry: number
  readonly rollback?: boolean
  readonly metricsPort?: number
  readonly trace?: string
}

/** Adds `ckpt update`. */
export function addUpdate(program: Command): void {
  const command = program
    .command('update')
    .description('load a checkpoint and update running engines with it')
    .argument('[checkpoint...]', 'safetensors files, or one directory that holds them')
    .option('--checkpoint <path...>', 'same as the argument')
    .addOption(
      new Option(
        '--from <trainer=socket>',
        'take the checkpoint from the memory of a trainer that serves it at this socket (docs/trainers.md), instead of files; {rank}, {local_rank} and {node} are replaced',
      ).argParser(parseFrom),
    )
    .addOption(
      new Option(
        '--strategy <name>',
        'auto: direct if possible, otherwise staged; broadcast: everything through the ring of every rank; direct: fail where it is impossible; p2p: every rank pulls from the others',
      )
        .choices(STRATEGIES)
        .default('auto'),
    )
  addEngineUpdateOptions(command)
    .option('--in-place', 'use files in /dev/shm in place instead of copying them')
    .addOption(new Option('--retry <n>', 'further attempts after a failure that may pass').argParser(parseCount(0)).default(0))
    .option('--rollback', 'restore the previous version if the update fails partway, while its checkpoint is registered')
    .addOption(
      new Option(
        '--metrics-port <port>',
        'serve metrics for Prometheus meanwhile: the first rank of this node on this port, the others on the ports after it',
      ).argParser(parsePort),
    )
    .option('--trace <file>', 'write a trace of all ranks for ui.perfetto.dev or chrome://tracing (rank 0)')
    .action(async (paths: string[], given: UpdateCommandOptions) => {
      const options = checked(paths, given)
      const { metricsPort } = options
      if (await startedRanks(options, metricsPort === undefined ? {} : { metricsPort })) return
      await interruptible((signal) => update(options, signal))
    })
}

/** @throws UsageError before any rank is started. */
function checked(paths: string[], given: UpdateCommandOptions): UpdateCommandOptions {
  const checkpoint = [...paths, ...(given.checkpoint ?? [])]
  const { from, nproc } = given
  if (paths.length > 0 && given.checkpoint !== undefined) {
    throw new UsageError('--checkpoint and the argument are both given; expected one of them')
  }
  if (from === undefined && checkpoint.length === 0) {
    throw new UsageError('--checkpoint is missing; expected a directory or safetensors files, or --from trainer=SOCKET')
  }
  if (from !== undefined && checkpoint.length > 0) {
    throw new UsageError('--from and a checkpoint are both given; expected one of them')
  }
  for (const path of checkpoint) {
    if (statSync(userPath(path), { throwIfNoEntry: false }) === undefined) {
      throw new UsageError(`--checkpoint ${path}: no such file or directory; expected safetensors files or a directory of them`)
    }
  }
  chosenEngine(given)
  if (from !== undefined) {
    const { worldSize } = ownPlace(nproc)
    if (worldSize > 1 && placeholdersIn(from, '--from').length === 0) {
      throw new UsageError(`--from trainer=${from}: ${worldSize} ranks need a trainer's socket each; expected {rank} in it`)
    }
  }
  return { ...given, checkpoint }
}

function parseFrom(text: string): string {
  const [, socket] = /^trainer=(.+)$/.exec(text) ?? []
  if (socket === undefined) throw new InvalidArgumentError('expected trainer=SOCKET')
  return socket
}

async function update(options: UpdateCommandOptions, signal: AbortSignal): Promise<void> {
  // A launcher has set each rank's own port.
  const metricsPort = process.env['CKPT_METRICS_PORT'] === undefined ? options.metricsPort : undefined
  const { localRank, localWorldSize } = ownPlace()
  const { checkpoint = [], strategy, inPlace } = options
  const shareMemory = !inPlace && sharesMemory(strategy, localWorldSize, checkpoint.map(userPath))
  await using rank = await createRank(options, signal, {
    shareMemory,
    ...(metricsPort !== undefined && { metricsPort: metricsPort + localRank }),
  })
  const { server } = rank
  const first = server.rank === 0
  {
    using bar = new RankProgress('register', server, !options.json)
    const { source, ...how } = sourceOf(options)
    await server.registerCheckpoint(options.name, source, {
      ...how,
      ...(inPlace && { inPlace: true }),
      signal,
      onProgress: (done, total) => bar.update(done, total),
    })
  }
  await server.gatherMetas(options.name, { digests: digestsWanted(options), signal })
  await handOn(server, options.name, options)
  const { retry, rollback = false } = options
  const more = { bar: 'update', strategy: strategyOf(strategy, server.worldSize), retry, rollback }
  const report = await updateEngines(rank, options.name, options, signal, more)
  if (options.trace !== undefined) {
    const timelines = await server.gatherTimelines(report, { signal })
    if (first) await writeTrace(userPath(options.trace), timelines)
  }
  printReport(report, server, options)
  if (options.hold) await held(rank, options.name, signal)
}

/** Returns this rank's part of the checkpoint. */
function sourceOf({ checkpoint = [], from }: UpdateCommandOptions): Pick<RegisterOptions, 'share'> & {
  readonly source: CheckpointSource
} {
  const place = ownPlace()
  if (from !== undefined) return { source: { trainer: userPath(fillIn(from, place)) } }
  const share = { index: place.rank, count: place.worldSize }
  const absolute = checkpoint.map(userPath)
  if (absolute.length === 1 && statSync(absolute[0]!, { throwIfNoEntry: false })?.isDirectory())
    return { source: { directory: absolute[0]! }, share }
  return { source: { files: absolute }, share }
}
