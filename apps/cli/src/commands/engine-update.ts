import type { EngineAdapter } from '@ckpt/contract'
import { launchedBy, type ParameterServer, type UpdateOptions, type UpdateReport, type VerificationLevel } from '@ckpt/core'
import { createParameterServer } from '@ckpt/server'
import { Option, type Command } from 'commander'
import { onAbort } from '@ckpt/utils'
import { addDeviceOption, openDevice, type DeviceChoice } from '../choices/device.ts'
import { addEngineOptions, chosenEngine, engineOf, type EngineOptions } from '../choices/engine.ts'
import { printWaiting, stderrLogger } from '../output.ts'
import { parseCount, parseSize } from '../sizes.ts'
import { RankProgress, tell } from '../terminal/progress.ts'
import { UsageError } from '../usage.ts'
import { userPath } from '../user-path.ts'
import { launch, type LaunchOptions } from './launch.ts'
import { summary } from './summary.ts'

/** Help of the option `--interface`, which `ckpt serve` has, too. */
export const INTERFACE_HELP =
  'network interfaces on which other hosts read from this rank, such as eth0; syntax of NCCL_SOCKET_IFNAME (default: CKPT_INTERFACE, otherwise the one towards the coordinator)'

/** Options of ranks that update engines. */
export interface RankOptions extends EngineOptions {
  readonly device: DeviceChoice
  readonly nproc?: number
  /** False with `--no-verify`. */
  readonly verify?: VerificationLevel | false
  readonly ringSize?: number
  readonly bucketSize?: number
  readonly timeout: number
  readonly interface?: string
  readonly json?: boolean
  readonly verbose?: boolean
}

/** Common options of `ckpt update` and `ckpt join`. */
export interface EngineUpdateOptions extends RankOptions {
  readonly name: string
  readonly version?: string
  readonly saveMetas?: string
  readonly publishMetas?: boolean
  readonly hold?: boolean
}

/** Adds the options of one update. */
export function addEngineUpdateOptions(command: Command): Command {
  return addRankOptions(command.option('--name <name>', 'name of the checkpoint', 'checkpoint'))
    .option('--version <version>', "version that the engine serves afterwards (default: the checkpoint's name)")
    .option('--save-metas <file>', 'write the gathered metas to a file, for `ckpt join --metas` (rank 0)')
    .option('--publish-metas', 'publish the gathered metas at the coordinator, for `ckpt join --coordinator`')
    .option('--hold', 'keep the checkpoint afterwards, until interrupted, so that others can join from it')
}

/** Adds the options of ranks that update engines, once or repeatedly. */
export function addRankOptions(command: Command): Command {
  return addDeviceOption(addEngineOptions(command))
    .addOption(
      new Option('--nproc <n>', 'start this many ranks on this machine (default: one, or as set by `ckpt launch`)').argParser(
        parseCount(1),
      ),
    )
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
    .option('--interface <names>', INTERFACE_HELP)
    .option('--json', 'print one JSON line per rank instead of a summary')
    .option('--verbose', 'write a log as JSON lines to stderr')
}

/**
 * Starts this command once per rank, if requested and not yet done. Where a launcher has started one process on each of several
 * machines, each starts its own ranks. @returns true if it did
 */
export async function startedRanks(
  { nproc }: Pick<RankOptions, 'nproc'>,
  more: Pick<LaunchOptions, 'metricsPort'> = {},
): Promise<boolean> {
  if (nproc === undefined || process.env['RANK'] !== undefined) return false
  const launched = launchedBy(process.env)
  if (launched !== undefined && launched.localWorldSize > 1) {
    if (nproc === launched.localWorldSize) return false
    const text = `--nproc ${nproc}: ${launched.launcher} has started ${launched.localWorldSize} ranks on this machine; expected that number, or no --nproc`
    throw new UsageError(text)
  }
  const self = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  process.exitCode = await launch(self, { nproc, ...nodesOf(launched), ...more, showProgress: true })
  return true
}

/** The machines of a launcher's job, one process each. */
function nodesOf(
  launched: ReturnType<typeof launchedBy>,
): Pick<LaunchOptions, 'nnodes' | 'nodeRank' | 'masterAddr' | 'masterPort'> {
  if (launched === undefined || launched.worldSize === 1) return { nnodes: 1, nodeRank: 0 }
  const { MASTER_ADDR: masterAddr = launched.masterAddr, MASTER_PORT: port = '29500' } = process.env
  if (masterAddr === undefined) {
    throw new UsageError(
      `MASTER_ADDR is missing: ${launched.launcher} does not name the machine of rank 0; expected its name or address`,
    )
  }
  return { nnodes: launched.worldSize, nodeRank: launched.rank, masterAddr, masterPort: Number(port) }
}

/** A rank, its engine and its GPU, if it uses one; closed in reverse order. */
export interface Rank extends AsyncDisposable {
  readonly server: ParameterServer
  readonly engine: EngineAdapter
}

/**
 * Creates this rank's parameter server, and waits until the engines of all ranks answer: nothing has been read by then. `more`:
 * further options of the server.
 */
export async function createRank(
  options: RankOptions,
  signal: AbortSignal,
  more: { readonly metricsPort?: number; readonly shareMemory?: boolean } = {},
): Promise<Rank> {
  const { timeout, verbose } = options
  const logger = stderrLogger(verbose ? 'debug' : 'silent')
  const device = await openDevice(options.device, chosenEngine(options).kind)
  let server: ParameterServer | undefined
  const close = async () => {
    await server?.close()
    await device?.close()
  }
  try {
    const serve = options.interface === undefined ? {} : { serve: { interface: options.interface } }
    const common = { timeoutMs: timeout * 1000, logger, onWaiting: printWaiting, ...(device && { device }), ...serve }
    server = await createParameterServer({ ...common, ...more }, { signal })
    const { rank, worldSize } = server
    const engine = engineOf(options, worldSize, (text) => tell(`rank ${rank}: ${text}`))
    await server.waitForEngines(engine, { signal })
    return { server, engine, [Symbol.asyncDispose]: close }
  } catch (error) {
    await close()
    throw error
  }
}

/** Returns true if metas need digests for the requested verification. */
export function digestsWanted({ verify }: Pick<RankOptions, 'verify'>): boolean {
  return verify !== false && verify !== 'none'
}

/** Runs the update, with its progress bar. */
export async function updateEngines(
  { server, engine }: Rank,
  checkpoint: string,
  options: RankOptions & { readonly version?: string },
  signal: AbortSignal | undefined,
  more: Partial<UpdateOptions> & { readonly bar: string },
): Promise<UpdateReport> {
  const { bar: title, ...rest } = more
  using bar = new RankProgress(title, server, !options.json)
  return await server.update(checkpoint, {
    engine,
    ...(options.verify !== undefined && { verify: options.verify }),
    ...(signal !== undefined && { signal }),
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

export function printReport(report: UpdateReport, server: ParameterServer, { json }: RankOptions): void {
  const { spans: _, ...rest } = report
  if (json) process.stdout.write(`${JSON.stringify(rest)}\n`)
  else if (server.rank === 0) process.stdout.write(summary(report, server.worldSize))
}

/** Says that the checkpoint is held, and resolves when interrupted. */
export function held({ server }: Rank, checkpoint: string, signal: AbortSignal): Promise<void> {
  if (server.rank === 0) tell(`holding ${checkpoint} until SIGINT or SIGTERM`)
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
