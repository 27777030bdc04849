import { CkptError } from '@ckpt/contract'
import { p2p } from '@ckpt/p2p'
import type { Command } from 'commander'
import { interruptible } from '../interrupt.ts'
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

interface JoinCommandOptions extends EngineUpdateOptions {
  readonly metas?: string
  readonly coordinator?: string
  readonly keep?: boolean
}

/** Adds `ckpt join`. */
export function addJoin(program: Command): void {
  const command = program
    .command('join')
    .description('update engine workers of a new instance from the memory of running ranks, which do not take part')
    .option('--metas <file>', 'metas file written by `--save-metas` or saveMetas')
    .option(
      '--coordinator <address>',
      'tcp://host:port of the running ranks, to fetch published metas of --name (token: CKPT_JOIN_TOKEN; CKPT_JOIN_RUN_ID if these have a CKPT_RUN_ID)',
    )
    .option('--keep', 'keep pulled bytes in host memory, so that others can join from here (with --hold)')
  addEngineUpdateOptions(command).action(async (options: JoinCommandOptions) => {
    check(options)
    if (await startedRanks(options)) return
    await interruptible((signal) => join(options, signal))
  })
}

function check({ metas, coordinator, keep, saveMetas, publishMetas, hold }: JoinCommandOptions): void {
  const refuse = (field: string, message: string): never => {
    throw new CkptError('INVALID_ARGUMENT', `ckpt join ${message}`, { fields: { field } })
  }
  if ((metas === undefined) === (coordinator === undefined)) refuse('metas', 'needs either --metas or --coordinator')
  if (!keep && (saveMetas !== undefined || publishMetas || hold)) {
    refuse('keep', 'requires --keep with --save-metas, --publish-metas or --hold')
  }
}

async function join(options: JoinCommandOptions, signal: AbortSignal): Promise<void> {
  await using server = await createServer(options, signal)
  const token = process.env['CKPT_JOIN_TOKEN']
  const run = process.env['CKPT_JOIN_RUN_ID']
  const { checkpoint } =
    options.coordinator === undefined
      ? await server.loadMetas(userPath(options.metas!))
      : await server.fetchMetas(options.name, {
          address: options.coordinator,
          signal,
          ...(token !== undefined && { token }),
          ...(run !== undefined && { run }),
        })
  const ranks = Array.from({ length: server.worldSize }, (_, rank) => rank)
  const { keep = false } = options
  const strategy = p2p({ ranks, keep })
  const report = await updateEngines(server, checkpoint, options, signal, { bar: 'join', strategy })
  if (keep) {
    await server.gatherMetas(checkpoint, { digests: digestsWanted(options), signal })
    await handOn(server, checkpoint, options)
  }
  printReport(report, server, options)
  if (options.hold) await held(signal)
}
