import { statSync } from 'node:fs'
import { writeTrace, type CheckpointSource } from '@ckpt/core'
import { Option, type Command } from 'commander'
import { interruptible } from '../interrupt.ts'
import { ByteProgress } from '../progress.ts'
import { parseCount } from '../sizes.ts'
import {
  digestsWanted,
  addEngineUpdateOptions,
  createServer,
  handOn,
  held,
  printReport,
  startedRanks,
  updateEngines,
  userPath,
  type EngineUpdateOptions,
} from './engine-update.ts'

interface UpdateCommandOptions extends EngineUpdateOptions {
  readonly checkpoint: string[]
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
    .description('load safetensors checkpoints and update running engine workers with them')
    .requiredOption('--checkpoint <path...>', 'safetensors files, or one directory that holds them')
  addEngineUpdateOptions(command)
    .option('--in-place', 'use files in /dev/shm in place instead of copying them')
    .addOption(new Option('--retry <n>', 'further attempts after a failure that may pass').argParser(parseCount(0)).default(0))
    .option('--rollback', 'restore the previous version if the update fails partway, while its checkpoint is registered')
    .addOption(
      new Option(
        '--metrics-port <port>',
        'serve metrics for Prometheus meanwhile: the first rank of this node on this port, the others on the ports after it',
      ).argParser(parseCount(1)),
    )
    .option('--trace <file>', 'write a trace of all ranks for ui.perfetto.dev or chrome://tracing (rank 0)')
    .action(async (options: UpdateCommandOptions) => {
      const { metricsPort } = options
      if (await startedRanks(options, metricsPort === undefined ? {} : { metricsPort })) return
      await interruptible((signal) => update(options, signal))
    })
}

async function update(options: UpdateCommandOptions, signal: AbortSignal): Promise<void> {
  // A launcher has set each rank's own port.
  const metricsPort = process.env['CKPT_METRICS_PORT'] === undefined ? options.metricsPort : undefined
  const localRank = Number(process.env['LOCAL_RANK'] ?? 0)
  const metrics = metricsPort === undefined ? {} : { metricsPort: metricsPort + localRank }
  await using server = await createServer(options, signal, metrics)
  const first = server.rank === 0
  {
    using bar = new ByteProgress('register', first && !options.json)
    await server.registerCheckpoint(options.name, sourceOf(options.checkpoint), {
      share: { index: server.rank, count: server.worldSize },
      ...(options.inPlace && { inPlace: true }),
      signal,
      onProgress: (done, total) => bar.update(done, total),
    })
  }
  await server.gatherMetas(options.name, { digests: digestsWanted(options), signal })
  await handOn(server, options.name, options)
  const { retry, rollback = false } = options
  const report = await updateEngines(server, options.name, options, signal, { bar: 'update', retry, rollback })
  if (options.trace !== undefined) {
    const timelines = await server.gatherTimelines(report, { signal })
    if (first) await writeTrace(userPath(options.trace), timelines)
  }
  printReport(report, server, options)
  if (options.hold) await held(signal)
}

function sourceOf(paths: readonly string[]): CheckpointSource {
  const absolute = paths.map(userPath)
  if (absolute.length === 1 && statSync(absolute[0]!, { throwIfNoEntry: false })?.isDirectory())
    return { directory: absolute[0]! }
  return { files: absolute }
}
