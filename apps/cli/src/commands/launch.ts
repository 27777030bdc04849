import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { constants } from 'node:os'
import { join } from 'node:path'
import { RuntimeDir } from '@ckpt/core'
import { Option, type Command } from 'commander'
import getPort, { portNumbers } from 'get-port'
import { AllRanksProgress } from '../terminal/progress.ts'
import { parseCount, parsePort } from '../sizes.ts'
import { UsageError } from '../usage.ts'

export interface LaunchOptions {
  readonly nproc: number
  readonly nnodes: number
  readonly nodeRank: number
  /** Address of rank 0 (default: the loopback interface, on a single node). */
  readonly masterAddr?: string
  readonly masterPort?: number
  /** Port on which the first rank of this node serves metrics; the others use the ports after it. */
  readonly metricsPort?: number
  /** Show the progress that ranks of this program report (default false). */
  readonly showProgress?: boolean
}

const GRACE_MS = 5000

/** Adds `ckpt launch`. */
export function addLaunch(program: Command): void {
  program
    .command('launch')
    .description(
      'run a command once per rank, with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT and a shared secret set',
    )
    .addOption(new Option('--nproc <n>', 'ranks on this node').argParser(parseCount(1)).makeOptionMandatory())
    .addOption(new Option('--nnodes <n>', 'nodes').argParser(parseCount(1)).default(1))
    .addOption(new Option('--node-rank <n>', 'index of this node').argParser(parseCount(0)).default(0))
    .option('--master-addr <host>', 'address of rank 0 (default: the loopback interface, on a single node)')
    .addOption(new Option('--master-port <port>', 'port of rank 0 (default: a free one on a single node)').argParser(parsePort))
    .addOption(
      new Option(
        '--metrics-port <port>',
        'serve metrics for Prometheus, if the ranks use createParameterServer of @ckpt/server: the first rank of this node on this port, the others on the ports after it',
      ).argParser(parseCount(1)),
    )
    .argument('<command...>', 'the command and its arguments, after --')
    .action(async (command: string[], options: LaunchOptions) => {
      process.exitCode = await launch(command, options)
    })
}

/**
 * Runs `command` once per rank. If one fails the others are stopped; signals are passed on. Resolves to the exit status: the
 * first failing rank's, or 0.
 */
export async function launch(command: readonly string[], options: LaunchOptions): Promise<number> {
  const { nproc, nnodes, nodeRank } = options
  for (const field of ['masterPort', 'masterAddr'] as const) {
    if (nnodes === 1 || options[field] !== undefined) continue
    const option = field === 'masterPort' ? '--master-port' : '--master-addr'
    throw new UsageError(`${option} is missing; expected it with --nnodes ${nnodes}`)
  }
  if (nodeRank >= nnodes) throw new UsageError(`--node-rank ${nodeRank}: expected a number below --nnodes, ${nnodes}`)
  const masterAddr = options.masterAddr ?? (await loopback())
  using directory = await RuntimeDir.create()
  const tokenFile = join(directory.path, 'token')
  // On several nodes the secret must be the same everywhere, so it comes from the caller's environment.
  const ownSecret = process.env['CKPT_TOKEN'] === undefined && process.env['CKPT_TOKEN_FILE'] === undefined && nnodes === 1
  if (ownSecret) writeFileSync(tokenFile, randomBytes(24).toString('base64url'), { mode: 0o600 })
  const port = options.masterPort ?? (await freePort(masterAddr))
  const children = Array.from({ length: nproc }, (_, local) =>
    spawn(command[0]!, command.slice(1), {
      stdio: options.showProgress ? ['inherit', 'inherit', 'inherit', 'ipc'] : 'inherit',
      env: {
        ...process.env,
        RANK: String(nodeRank * nproc + local),
        LOCAL_RANK: String(local),
        WORLD_SIZE: String(nnodes * nproc),
        LOCAL_WORLD_SIZE: String(nproc),
        NODE_RANK: String(nodeRank),
        MASTER_ADDR: masterAddr,
        MASTER_PORT: String(port),
        ...(options.metricsPort !== undefined && { CKPT_METRICS_PORT: String(options.metricsPort + local) }),
        ...(ownSecret && { CKPT_TOKEN_FILE: tokenFile }),
      },
    }),
  )
  const progress = new AllRanksProgress(nproc)
  if (options.showProgress) for (const child of children) progress.watch(child)
  const pass = (signal: NodeJS.Signals) => children.forEach((child) => child.kill(signal))
  process.on('SIGINT', pass).on('SIGTERM', pass).on('SIGHUP', pass)
  try {
    let status = 0
    await Promise.all(
      children.map(async (child, local) => {
        const code = await exitStatus(child, command[0]!)
        if (code === 0) return
        progress.end()
        if (status === 0) {
          status = code
          if (code < 128) process.stderr.write(`ckpt launch: rank ${nodeRank * nproc + local} exited with status ${code}\n`)
        }
        await stopAll(children)
      }),
    )
    return status
  } finally {
    progress.end()
    process.off('SIGINT', pass).off('SIGTERM', pass).off('SIGHUP', pass)
  }
}

async function exitStatus(child: ChildProcess, command: string): Promise<number> {
  try {
    const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
    return code ?? 128 + constants.signals[signal!]
  } catch (error) {
    process.stderr.write(`ckpt launch: cannot run ${command}: ${String(error)}\n`)
    return 127
  }
}

/** Asks running children to end, and kills them after a while. */
async function stopAll(children: readonly ChildProcess[]): Promise<void> {
  const alive = () =>
    children.filter((child) => child.pid !== undefined && child.exitCode === null && child.signalCode === null)
  // Children that fail by themselves (an aborted epoch reaches every rank) should get time to report the reason.
  const deadline = performance.now() + GRACE_MS
  while (alive().length > 0 && performance.now() < deadline - GRACE_MS / 2)
    await new Promise((resolve) => setTimeout(resolve, 50))
  for (const child of alive()) child.kill('SIGTERM')
  while (alive().length > 0 && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 50))
  for (const child of alive()) child.kill('SIGKILL')
}

/**
 * Port for the coordinator, below the system's ports for outgoing connections: a rank that tries to reach it before it listens
 * could get its port, and connect to itself.
 */
async function freePort(host: string): Promise<number> {
  // On a different machine any port may be free or taken; then the ranks report it.
  const here = (await canListen(host)) ? { host } : {}
  return getPort({ ...here, port: portNumbers(randomInt(20_000, 32_000), 32_767) })
}

/** Address of the loopback interface: IPv4 if available. */
async function loopback(): Promise<string> {
  return (await canListen('127.0.0.1')) ? '127.0.0.1' : '::1'
}

function canListen(host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(0, host, () => server.close(() => resolve(true)))
  })
}
