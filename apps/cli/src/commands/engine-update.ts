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

/** Common options of `ckpt update` and `ckpt join`. */
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

/** Adds the common options. */
export function addEngineUpdateOptions(command: Command): Command {
  return command
    .requiredOption('--engine-control <path>', "control socket of a rank's engine worker; {rank} is replaced by the rank")
    .option('--name <name>', 'name of the checkpoint', 'checkpoint')
    .addOption(
      new Option('--nproc <n>', 'start this many ranks on this machine (default: one, or as set by `ckpt launch`)').argParser(
        parseCount(1),
      ),
    )
    .option('--version <version>', "version that the engine serves afterwards (default: the checkpoint's name)")
    .addOption(
      new Option(
        '--verify <level>',
        'bytes: read parameters back and compare, recording a staged update if necessary; sources: compare tensors before they are loaded; none (default: like bytes, but no update is recorded only for this)',
      ).choices(['bytes', 'sources', 'none']),
    )
    .option('--no-verify', 'same as --verify none')
    .addOption(new Option('--ring-size <size>', 'maximum memory of the ring, such as 1GiB').argParser(parseSize))
    .addOption(new Option('--bucket-size <size>', 'preferred bucket size, such as 64MiB').argParser(parseSize))
    .addOption(new Option('--timeout <seconds>', 'deadline of every wait').argParser(parseCount(1)).default(120))
    .option('--save-metas <file>', 'write the gathered metas to a file, for `ckpt join --metas` (rank 0)')
    .option('--publish-metas', 'publish the gathered metas at the coordinator, for `ckpt join --coordinator`')
    .option('--hold', 'keep the checkpoint afterwards, until interrupted, so that others can join from it')
    .option('--json', 'print one JSON line per rank instead of a summary')
    .option('--verbose', 'write a log as JSON lines to stderr')
}

/** Starts this command once per rank, if requested and not yet done. @returns true if it did */
export async function startedRanks(
  { nproc }: Pick<EngineUpdateOptions, 'nproc'>,
  more: Pick<LaunchOptions, 'metricsPort'> = {},
): Promise<boolean> {
  if (nproc === undefined || process.env['RANK'] !== undefined) return false
  const self = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  process.exitCode = await launch(self, { nproc, nnodes: 1, nodeRank: 0, ...more })
  return true
}

/** Creates this rank's parameter server. */
export function createServer(
  { timeout, verbose }: EngineUpdateOptions,
  signal: AbortSignal,
  more: { readonly metricsPort?: number } = {},
): Promise<ParameterServer> {
  const logger = stderrLogger(verbose ? 'debug' : 'silent')
  return createParameterServer({ timeoutMs: timeout * 1000, logger, onWaiting: printWaiting, ...more }, { signal })
}

/** Returns true if metas need digests for the requested verification. */
export function digestsWanted({ verify }: Pick<EngineUpdateOptions, 'verify'>): boolean {
  return verify !== false && verify !== 'none'
}

/** Runs the update, with its progress bar. */
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

/** Saves or publishes this world's metas for others, as requested. */
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
    // A promise alone does not keep a process alive.
    const timer = setInterval(() => undefined, 60_000)
    const over = (): void => {
      clearInterval(timer)
      resolve()
    }
    onAbort(signal, over)
  })
}

/** Resolves a path relative to the caller's directory, also when called through `npm run`. */
export function userPath(path: string): string {
  return resolve(process.env['INIT_CWD'] ?? process.cwd(), path)
}
