import { p2p } from '@ckpt/p2p'
import { Option, type Command } from 'commander'
import { chosenEngine } from '../choices/engine.ts'
import { interruptible } from '../interrupt.ts'
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
    .addOption(new Option('--strategy <name>', 'joining ranks pull from others (p2p)').choices(['auto', 'p2p']).default('auto'))
    .option('--keep', 'keep pulled bytes in host memory, so that others can join from here (with --hold)')
  addEngineUpdateOptions(command).action(async (options: JoinCommandOptions) => {
    check(options)
    if (await startedRanks(options)) return
    await interruptible((signal) => join(options, signal))
  })
}

/** @throws UsageError before any rank is started. */
function check(options: JoinCommandOptions): void {
  const { metas, coordinator, keep, saveMetas, publishMetas, hold } = options
  if ((metas === undefined) === (coordinator === undefined)) {
    throw new UsageError(
      `--metas and --coordinator are ${metas === undefined ? 'missing' : 'both given'}; expected one of them`,
    )
  }
  if (!keep && (saveMetas !== undefined || publishMetas || hold)) {
    const option = saveMetas !== undefined ? '--save-metas' : publishMetas ? '--publish-metas' : '--hold'
    throw new UsageError(`${option} requires --keep: without it no bytes are left that others could pull`)
  }
  chosenEngine(options)
}

async function join(options: JoinCommandOptions, signal: AbortSignal): Promise<void> {
  await using rank = await createRank(options, signal)
  const { server } = rank
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
  const ranks = Array.from({ length: server.worldSize }, (_, index) => index)
  const { keep = false } = options
  const strategy = p2p({ ranks, keep })
  const report = await updateEngines(rank, checkpoint, options, signal, { bar: 'join', strategy })
  if (keep) {
    await server.gatherMetas(checkpoint, { digests: digestsWanted(options), signal })
    await handOn(server, checkpoint, options)
  }
  printReport(report, server, options)
  if (options.hold) await held(rank, checkpoint, signal)
}
