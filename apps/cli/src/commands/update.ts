import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { ParameterServer, controlEngine, writeTrace, type CheckpointSource, type UpdateReport } from '@ckpt/core'
import { Option, type Command } from 'commander'
import { pino, destination } from 'pino'
import { interruptible } from '../interrupt.ts'
import { ByteProgress } from '../progress.ts'
import { formatSize, parseCount, parseSize } from '../sizes.ts'
import { launch } from './launch.ts'

interface UpdateCommandOptions {
  readonly checkpoint: string[]
  readonly name: string
  readonly engineControl: string
  readonly nproc?: number
  readonly version?: string
  readonly verify: boolean
  readonly inPlace?: boolean
  readonly ringSize?: number
  readonly bucketSize?: number
  readonly timeout: number
  readonly saveMetas?: string
  readonly publishMetas?: boolean
  readonly hold?: boolean
  readonly trace?: string
  readonly json?: boolean
  readonly verbose?: boolean
}

/** Adds `ckpt update`. */
export function addUpdate(program: Command): void {
  program
    .command('update')
    .description('load safetensors checkpoints and update running engine workers with them')
    .requiredOption('--checkpoint <path...>', 'safetensors files, or one directory that holds them')
    .requiredOption('--engine-control <path>', "control socket of a rank's engine worker; {rank} stands for the rank")
    .option('--name <name>', 'name of the checkpoint', 'checkpoint')
    .addOption(
      new Option('--nproc <n>', 'start this many ranks on this machine (default: one, or as `ckpt launch` set)').argParser(
        parseCount(1),
      ),
    )
    .option('--version <version>', "what the engine serves afterwards (default: the checkpoint's name)")
    .option('--no-verify', 'do not send digests for the workers to compare')
    .option('--in-place', 'use files in /dev/shm where they are instead of copying them')
    .addOption(new Option('--ring-size <size>', 'most memory the ring may take, such as 1GiB').argParser(parseSize))
    .addOption(new Option('--bucket-size <size>', 'preferred bucket size, such as 64MiB').argParser(parseSize))
    .addOption(new Option('--timeout <seconds>', 'deadline of every wait').argParser(parseCount(1)).default(120))
    .option('--save-metas <file>', 'write the gathered metas to a file (rank 0)')
    .option('--publish-metas', 'leave the gathered metas with the coordinator, for `ckpt join --coordinator`')
    .option('--hold', 'afterwards keep the checkpoint, for others to join from, until interrupted')
    .option('--trace <file>', 'write when every rank did what, as a trace for ui.perfetto.dev or chrome://tracing (rank 0)')
    .option('--json', 'print one JSON line a rank instead of a summary')
    .option('--verbose', 'log what happens, as JSON lines on stderr')
    .action(async (options: UpdateCommandOptions) => {
      if (options.nproc !== undefined && process.env['RANK'] === undefined) {
        const self = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
        process.exitCode = await launch(self, { nproc: options.nproc, nnodes: 1, nodeRank: 0, masterAddr: '127.0.0.1' })
        return
      }
      await interruptible((signal) => update(options, signal))
    })
}

async function update(options: UpdateCommandOptions, signal: AbortSignal): Promise<void> {
  const timeoutMs = options.timeout * 1000
  const logger = pino({ level: options.verbose ? 'debug' : 'silent' }, destination({ fd: 2, sync: true }))
  await using server = await ParameterServer.create({ timeoutMs, logger }, { signal })
  const first = server.rank === 0
  const bars = first && !options.json
  {
    using bar = new ByteProgress('register', bars)
    await server.registerCheckpoint(options.name, sourceOf(options.checkpoint), {
      share: { index: server.rank, count: server.worldSize },
      ...(options.inPlace && { inPlace: true }),
      signal,
      onProgress: (done, total) => bar.update(done, total),
    })
  }
  await server.gatherMetas(options.name, { digests: options.verify, signal })
  if (first && options.saveMetas !== undefined) await server.saveMetas(options.name, options.saveMetas)
  if (first && options.publishMetas) server.publishMetas(options.name)
  using bar = new ByteProgress('update', bars)
  const report = await server.update(options.name, {
    engine: controlEngine({ socket: (rank) => options.engineControl.replaceAll('{rank}', String(rank)) }),
    verify: options.verify,
    signal,
    onProgress: (done, total) => bar.update(done, total),
    ...(options.version !== undefined && { version: options.version }),
    ...(options.ringSize !== undefined && { ringBytes: options.ringSize }),
    ...(options.bucketSize !== undefined && { bucketBytes: options.bucketSize }),
  })
  bar[Symbol.dispose]()
  if (options.trace !== undefined) {
    const timelines = await server.gatherTimelines(report, { signal })
    if (first) await writeTrace(userPath(options.trace), timelines)
  }
  if (options.json) {
    const { spans: _, ...rest } = report
    process.stdout.write(`${JSON.stringify(rest)}\n`)
  } else if (first) process.stdout.write(summary(report, server.worldSize))
  if (options.hold) await held(signal)
}

/** Resolves when interrupted. */
function held(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    // A promise alone does not keep a process.
    const timer = setInterval(() => undefined, 60_000)
    const over = (): void => {
      clearInterval(timer)
      resolve()
    }
    if (signal.aborted) over()
    else signal.addEventListener('abort', over, { once: true })
  })
}

export function userPath(path: string): string {
  return resolve(process.env['INIT_CWD'] ?? process.cwd(), path)
}

function sourceOf(paths: readonly string[]): CheckpointSource {
  const absolute = paths.map(userPath)
  if (absolute.length === 1 && statSync(absolute[0]!, { throwIfNoEntry: false })?.isDirectory())
    return { directory: absolute[0]! }
  return { files: absolute }
}

/** How H2D and broadcasts were laid in time, which matters where they share links. */
function orderText({ name, chunkBytes, reason }: NonNullable<UpdateReport['order']>): string {
  return `${name} in chunks of ${formatSize(chunkBytes)}: ${reason}`
}

/** What was pulled, and from whom. */
function pullText({ bytes, busyMs, sources, lost }: NonNullable<UpdateReport['pull']>): string {
  const from = sources.map((source) => `rank ${source.rank} ${formatSize(source.bytes)}`).join(', ')
  const gone = lost.map(({ rank, code }) => `; lost rank ${rank} (${code})`).join('')
  return `pulled ${formatSize(bytes)} in ${busyMs.toFixed(1)} ms: ${from}${gone}`
}

export function summary(report: UpdateReport, ranks: number): string {
  const { stages, steps } = report
  const ms = (value: number) => `${value.toFixed(1)} ms`
  const rate = formatSize(report.bytes / (steps.pipelineMs / 1000))
  return [
    `version ${report.version}: ${report.tensors} tensors, ${formatSize(report.bytes)}, to ${ranks} engine worker${ranks === 1 ? '' : 's'}`,
    `  whole ${ms(report.totalMs)}: begin ${ms(steps.beginMs)}, plan ${ms(steps.planMs)}, attach ${ms(steps.attachMs)}, pipeline ${ms(steps.pipelineMs)} (${rate}/s), commit ${ms(steps.commitMs)}`,
    `  stages on rank ${report.rank}: H2D ${ms(stages.h2dMs)}, broadcast ${ms(stages.broadcastMs)}, reload ${ms(stages.reloadMs)}, idle ${ms(stages.idleMs)}`,
    ...(report.pull ? [`  ${pullText(report.pull)}`] : []),
    `  ${report.mode} (${report.modeReason}); ${report.buckets} buckets through a ring of ${formatSize(report.ringBytes)}`,
    ...(report.order?.linksShared ? [`  ${orderText(report.order)}`] : []),
    `  ${report.verified ? 'every tensor compared with its digest before it was loaded' : 'digests were not compared (--no-verify)'}`,
    '',
  ].join('\n')
}
