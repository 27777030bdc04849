import { CkptError } from '@ckpt/contract'
import { ParameterServer, controlEngine } from '@ckpt/core'
import { p2p } from '@ckpt/p2p'
import { Option, type Command } from 'commander'
import { pino, destination } from 'pino'
import { interruptible } from '../interrupt.ts'
import { ByteProgress } from '../progress.ts'
import { parseCount, parseSize } from '../sizes.ts'
import { launch } from './launch.ts'
import { summary, userPath } from './update.ts'

interface JoinCommandOptions {
  readonly metas?: string
  readonly coordinator?: string
  readonly name: string
  readonly engineControl: string
  readonly nproc?: number
  readonly version?: string
  readonly verify: boolean
  readonly ringSize?: number
  readonly bucketSize?: number
  readonly timeout: number
  readonly json?: boolean
  readonly verbose?: boolean
}

/** Adds `ckpt join`. */
export function addJoin(program: Command): void {
  program
    .command('join')
    .description('give engine workers of a new instance the weights that running ranks hold, without their taking part')
    .requiredOption('--engine-control <path>', "control socket of a rank's engine worker; {rank} stands for the rank")
    .option('--metas <file>', 'metas that `ckpt update --save-metas` or saveMetas wrote')
    .option(
      '--coordinator <address>',
      'tcp://host:port of the running ranks, to fetch published metas from (token: CKPT_JOIN_TOKEN)',
    )
    .option('--name <name>', 'name of the checkpoint to fetch from a coordinator', 'checkpoint')
    .addOption(
      new Option('--nproc <n>', 'start this many ranks on this machine (default: one, or as `ckpt launch` set)').argParser(
        parseCount(1),
      ),
    )
    .option('--version <version>', "what the engine serves afterwards (default: the checkpoint's name)")
    .option('--no-verify', 'do not send digests for the workers to compare')
    .addOption(new Option('--ring-size <size>', 'most memory the ring may take, such as 1GiB').argParser(parseSize))
    .addOption(new Option('--bucket-size <size>', 'preferred bucket size, such as 64MiB').argParser(parseSize))
    .addOption(new Option('--timeout <seconds>', 'deadline of every wait').argParser(parseCount(1)).default(120))
    .option('--json', 'print one JSON line a rank instead of a summary')
    .option('--verbose', 'log what happens, as JSON lines on stderr')
    .action(async (options: JoinCommandOptions) => {
      if ((options.metas === undefined) === (options.coordinator === undefined)) {
        throw new CkptError('INVALID_ARGUMENT', 'ckpt join needs either --metas or --coordinator', {
          fields: { field: 'metas' },
        })
      }
      if (options.nproc !== undefined && process.env['RANK'] === undefined) {
        const self = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
        process.exitCode = await launch(self, { nproc: options.nproc, nnodes: 1, nodeRank: 0, masterAddr: '127.0.0.1' })
        return
      }
      await interruptible((signal) => join(options, signal))
    })
}

async function join(options: JoinCommandOptions, signal: AbortSignal): Promise<void> {
  const timeoutMs = options.timeout * 1000
  const logger = pino({ level: options.verbose ? 'debug' : 'silent' }, destination({ fd: 2, sync: true }))
  await using server = await ParameterServer.create({ timeoutMs, logger }, { signal })
  const token = process.env['CKPT_JOIN_TOKEN']
  const manifest =
    options.coordinator === undefined
      ? await server.loadMetas(userPath(options.metas!))
      : await server.fetchMetas(options.name, { address: options.coordinator, signal, ...(token !== undefined && { token }) })
  const first = server.rank === 0
  using bar = new ByteProgress('join', first && !options.json)
  const report = await server.update(manifest.checkpoint, {
    engine: controlEngine({ socket: (rank) => options.engineControl.replaceAll('{rank}', String(rank)) }),
    strategy: p2p({ ranks: Array.from({ length: server.worldSize }, (_, rank) => rank) }),
    verify: options.verify,
    signal,
    onProgress: (done, total) => bar.update(done, total),
    ...(options.version !== undefined && { version: options.version }),
    ...(options.ringSize !== undefined && { ringBytes: options.ringSize }),
    ...(options.bucketSize !== undefined && { bucketBytes: options.bucketSize }),
  })
  bar[Symbol.dispose]()
  if (options.json) {
    const { spans: _, ...rest } = report
    process.stdout.write(`${JSON.stringify(rest)}\n`)
  } else if (first) process.stdout.write(summary(report, server.worldSize))
}
