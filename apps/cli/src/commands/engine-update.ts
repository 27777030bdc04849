import { resolve } from 'node:path'
import { type ParameterServer, controlEngine, type UpdateOptions, type UpdateReport, type VerificationLevel } from '@ckpt/core'
import { createParameterServer } from '@ckpt/server'
import { Option, type Command } from 'commander'
import { onAbort } from '@ckpt/utils'
import { printWaiting, stderrLogger } from '../output.ts'
import { ByteProgress } from '../progress.ts'
import { parseCount, parseSize } from '../sizes.ts'
import { launch, type LaunchOptions } from './launch.ts'
import { summary } from './summary.ts'

/** What `ckpt update` and `ckpt join` have in common. */
export interface EngineUpdateOptions {
  readonly engineControl: string
  readonly name: string
  readonly nproc?: number
  readonly version?: string
  /** False with `--no-verify`. */
  readonly verify?: VerificationLevel | false
  readonly ringSize?: number
  readonly bucketSize?: number
  readonly timeout: number
  readonly saveMetas?: string
  readonly publishMetas?: boolean
  readonly hold?: boolean
  readonly json?: boolean
  readonly verbose?: boolean
}

/** Adds their options. */
export function addEngineUpdateOptions(command: Command): Command {
  return command
    .requiredOption('--engine-control <path>', "control socket of a rank's engine worker; {rank} stands for the rank")
    .option('--name <name>', 'name of the checkpoint', 'checkpoint')
    .addOption(
      new Option('--nproc <n>', 'start this many ranks on this machine (default: one, or as `ckpt launch` set)').argParser(
        parseCount(1),
      ),
    )
    .option('--version <version>', "what the engine serves afterwards (default: the checkpoint's name)")
    .addOption(
      new Option(
        '--verify <level>',
        'bytes: read parameters back and compare, recording a staged update for it; sources: compare tensors before they are loaded; none (default: as bytes, but nothing is recorded for it)',
      ).choices(['bytes', 'sources', 'none']),
    )
    .option('--no-verify', 'as --verify none')
    .addOption(new Option('--ring-size <size>', 'most memory the ring may take, such as 1GiB').argParser(parseSize))
    .addOption(new Option('--bucket-size <size>', 'preferred bucket size, such as 64MiB').argParser(parseSize))
    .addOption(new Option('--timeout <seconds>', 'deadline of every wait').argParser(parseCount(1)).default(120))
    .option('--save-metas <file>', 'write the gathered metas to a file, for `ckpt join --metas` (rank 0)')
    .option('--publish-metas', 'leave the gathered metas with the coordinator, for `ckpt join --coordinator`')
    .option('--hold', 'afterwards keep the checkpoint, for others to join from, until interrupted')
    .option('--json', 'print one JSON line a rank instead of a summary')
    .option('--verbose', 'log what happens, as JSON lines on stderr')
}

/** Starts this command once a rank, where that was asked for and nobody has done it yet. @returns whether it did. */
export async function startedRanks(
  { nproc }: Pick<EngineUpdateOptions, 'nproc'>,
  more: Pick<LaunchOptions, 'metricsPort'> = {},
): Promise<boolean> {
  if (nproc === undefined || process.env['RANK'] !== undefined) return false
  const self = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  process.exitCode = await launch(self, { nproc, nnodes: 1, nodeRank: 0, ...more })
  return true
}

/** This rank's parameter server. */
export function createServer(
  { timeout, verbose }: EngineUpdateOptions,
  signal: AbortSignal,
  more: { readonly metricsPort?: number } = {},
): Promise<ParameterServer> {
  const logger = stderrLogger(verbose ? 'debug' : 'silent')
  return createParameterServer({ timeoutMs: timeout * 1000, logger, onWaiting: printWaiting, ...more }, { signal })
}

/** True if metas need digests for the verification that was asked for. */
export function digestsWanted({ verify }: Pick<EngineUpdateOptions, 'verify'>): boolean {
  return verify !== false && verify !== 'none'
}

/** The update itself, with its progress bar. */
export async function updateEngines(
  server: ParameterServer,
  checkpoint: string,
  options: EngineUpdateOptions,
  signal: AbortSignal,
  more: Partial<UpdateOptions> & { readonly bar: string },
): Promise<UpdateReport> {
  const { bar: title, ...rest } = more
  using bar = new ByteProgress(title, server.rank === 0 && !options.json)
  return await server.update(checkpoint, {
    engine: controlEngine({ socket: (rank) => options.engineControl.replaceAll('{rank}', String(rank)) }),
    ...(options.verify !== undefined && { verify: options.verify }),
    signal,
    onProgress: (done, total) => bar.update(done, total),
    ...(options.version !== undefined && { version: options.version }),
    ...(options.ringSize !== undefined && { ringBytes: options.ringSize }),
    ...(options.bucketSize !== undefined && { bucketBytes: options.bucketSize }),
    ...rest,
  })
}

/** Lets others find what this rank's world holds, as far as that was asked for. */
export async function handOn(server: ParameterServer, checkpoint: string, options: EngineUpdateOptions): Promise<void> {
  if (server.rank !== 0) return
  if (options.saveMetas !== undefined) await server.saveMetas(checkpoint, userPath(options.saveMetas))
  if (options.publishMetas) server.publishMetas(checkpoint)
}

export function printReport(report: UpdateReport, server: ParameterServer, { json }: EngineUpdateOptions): void {
  const { spans: _, ...rest } = report
  if (json) process.stdout.write(`${JSON.stringify(rest)}\n`)
  else if (server.rank === 0) process.stdout.write(summary(report, server.worldSize))
}

/** Resolves when interrupted. */
export function held(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    // A promise alone does not keep a process.
    const timer = setInterval(() => undefined, 60_000)
    const over = (): void => {
      clearInterval(timer)
      resolve()
    }
    onAbort(signal, over)
  })
}

/** A path as the caller meant it, who may have come through `npm run`. */
export function userPath(path: string): string {
  return resolve(process.env['INIT_CWD'] ?? process.cwd(), path)
}
