import { once } from 'node:events'
import { networkInterfaces } from 'node:os'
import { checkSecret, readSecretFile } from '@ckpt/contract'
import type { EngineAdapter } from '@ckpt/contract'
import type { CudaDevice } from '@ckpt/core'
import { p2p } from '@ckpt/p2p'
import { createParameterServer, liveWith, serveHttp, type HttpOptions } from '@ckpt/server'
import { Option, type Command } from 'commander'
import { addDeviceOption, openDevice, type DeviceChoice } from '../choices/device.ts'
import { addEngineOptions, chosenEngine, engineOf, type EngineOptions } from '../choices/engine.ts'
import { ownPlace } from '../choices/place.ts'
import { interruptible } from '../interrupt.ts'
import { stderrLogger } from '../output.ts'
import { parseCount, parsePort } from '../sizes.ts'
import { UsageError } from '../usage.ts'
import { userPath } from '../user-path.ts'
import { INTERFACE_HELP, startedRanks } from './engine-update.ts'

interface ServeCommandOptions extends EngineOptions {
  readonly host: string
  readonly port?: number
  readonly uds?: string
  readonly tokenFile?: string
  readonly root?: string
  readonly tlsCert?: string
  readonly tlsKey?: string
  readonly metricsPort?: number
  readonly history?: string
  readonly device: DeviceChoice
  /** Older name of `device`. */
  readonly backend?: DeviceChoice
  readonly engineHost?: readonly string[]
  readonly engineSockets?: readonly string[]
  readonly nproc?: number
  readonly keepAlive?: boolean
  readonly interface?: string
  readonly timeout: number
  readonly verbose?: boolean
}

/** Adds `ckpt serve`. */
export function addServe(program: Command): void {
  const command = program
    .command('serve')
    .description("hold checkpoints and update engines on request, over checkpoint-engine's HTTP API (docs/http-api.md)")
    .option('--host <address>', 'address to listen on; any address other than loopback needs a token and --root', '127.0.0.1')
    .addOption(
      new Option('--port <port>', 'port of the first rank on this machine; the other ranks use the ports after it').argParser(
        parsePort,
      ),
    )
    .option('--uds <path>', 'unix socket to listen on instead; {rank} is replaced by the rank')
    .option('--token-file <path>', 'file with the bearer token that callers must send (default: CKPT_HTTP_TOKEN)')
    .option('--tls-cert <path>', 'certificate chain in PEM: serve HTTPS; replaced files are read again within ten seconds')
    .option('--tls-key <path>', 'private key of the certificate, in PEM')
    .addOption(
      new Option(
        '--metrics-port <port>',
        'also serve metrics and probes without a token: the first rank of this machine on this port, the others on the ports after it',
      ).argParser(parseCount(1)),
    )
    .option('--history <path>', 'file that keeps the history of the live page across restarts; {rank} is replaced by the rank')
    .option('--root <directory>', 'directory that must contain all checkpoint files')
    .addOption(new Option('--backend <kind>', 'same as --device').choices(['auto', 'host', 'cuda']))
  addDeviceOption(addEngineOptions(command))
    .option('--engine-host <host...>', 'further hosts that update_url of a request may name, with or without a port')
    .option(
      '--engine-sockets <directory...>',
      "directories that may contain the uds of a request (default: with --uds, the socket's own directory)",
    )
    .addOption(new Option('--nproc <n>', 'start this many ranks on this machine').argParser(parseCount(1)))
    .option('--interface <names>', INTERFACE_HELP)
    .option('--keep-alive', 'keep ring and communicator between updates')
    .addOption(new Option('--timeout <seconds>', 'deadline of every wait').argParser(parseCount(1)).default(120))
    .option('--verbose', 'write a log as JSON lines to stderr')
    .action(async (options: ServeCommandOptions) => {
      if (hasEngine(options)) chosenEngine(options)
      tlsOf(options)
      const { metricsPort } = options
      if (await startedRanks(options, metricsPort === undefined ? {} : { metricsPort })) return
      await interruptible((signal) => serve(options, signal))
    })
}

async function serve(options: ServeCommandOptions, signal: AbortSignal): Promise<void> {
  const { localRank } = ownPlace()
  const logger = stderrLogger(options.verbose ? 'debug' : 'warn')
  let device: CudaDevice | undefined
  try {
    const kind = hasEngine(options) ? chosenEngine(options).kind : undefined
    device = await openDevice(options.backend ?? options.device, kind)
    const timeoutMs = options.timeout * 1000
    const { keepAlive = false } = options
    const metricsPort = options.metricsPort === undefined ? {} : { metricsPort: options.metricsPort + localRank }
    const reached = options.interface === undefined ? {} : { serve: { interface: options.interface } }
    const server = await createParameterServer(
      { timeoutMs, logger, keepAlive, ...metricsPort, ...(device && { device }), ...reached },
      { signal },
    )
    try {
      const { rank, worldSize } = server
      const tell = (text: string) => void process.stderr.write(`rank ${rank}: ${text}\n`)
      const engine = kind === undefined ? undefined : engineOf(options, worldSize, tell)
      const http = await serveHttp(server, httpOptions(options, { rank, localRank, engine }))
      try {
        process.stdout.write(`${JSON.stringify({ rank: server.rank, listening: http.address, device: server.device.uuid })}\n`)
        if (isEverywhere(options)) tell(`listening on all addresses of this machine: ${ownAddresses().join(', ')}`)
        if (!signal.aborted) await once(signal, 'abort')
        await server.drain() // first, so that a running update ends cleanly and its caller gets an answer
      } finally {
        await http.close()
      }
    } finally {
      await server.close()
    }
    process.exitCode = 0 // ending on request is not a failure
  } finally {
    await device?.close()
  }
}

/** True for an address that stands for all of this machine's. */
function isEverywhere({ host, uds }: Pick<ServeCommandOptions, 'host' | 'uds'>): boolean {
  return uds === undefined && (host === '0.0.0.0' || host === '::')
}

function ownAddresses(): string[] {
  return Object.values(networkInterfaces()).flatMap((addresses = []) => addresses.map(({ address }) => address))
}

/** True if the command line names the engine; otherwise each request does. */
function hasEngine({ engine, engineControl }: EngineOptions): boolean {
  return engine !== undefined || engineControl !== undefined
}

function httpOptions(
  options: ServeCommandOptions,
  own: { readonly rank: number; readonly localRank: number; readonly engine: EngineAdapter | undefined },
): HttpOptions {
  const { host, port, uds, root, engineHost, engineSockets, history } = options
  const { rank, localRank, engine } = own
  const forRank = (path: string) => path.replaceAll('{rank}', String(rank))
  const token = tokenOf(options.tokenFile)
  const tls = tlsOf(options)
  return {
    host,
    plugins: [liveWith(history === undefined ? {} : { history: userPath(forRank(history)) })],
    ...(port !== undefined && { port: port + localRank }),
    ...(uds !== undefined && { socketPath: userPath(forRank(uds)) }),
    ...(token !== undefined && { token }),
    ...(tls !== undefined && { tls }),
    ...(root !== undefined && { root: userPath(root) }),
    ...(engineHost !== undefined && { engineHosts: engineHost }),
    ...(engineSockets !== undefined && { engineSockets: engineSockets.map((path) => userPath(forRank(path))) }),
    ...(engine !== undefined && { engine: () => engine }),
    strategy: (ranks) => p2p({ ranks }),
  }
}

function tlsOf({ tlsCert, tlsKey }: Pick<ServeCommandOptions, 'tlsCert' | 'tlsKey'>): HttpOptions['tls'] {
  if (tlsCert !== undefined && tlsKey !== undefined) return { cert: userPath(tlsCert), key: userPath(tlsKey) }
  if (tlsCert === undefined && tlsKey === undefined) return undefined
  throw new UsageError(`--tls-${tlsKey === undefined ? 'key' : 'cert'} is missing; expected certificate and key together`)
}

function tokenOf(file: string | undefined): string | undefined {
  if (file !== undefined) return readSecretFile(userPath(file), 'token-file')
  const token = process.env['CKPT_HTTP_TOKEN']
  return token === undefined ? undefined : checkSecret(token, 'CKPT_HTTP_TOKEN')
}
