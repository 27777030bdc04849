import { CkptError } from '@ckpt/contract'
import { MODELS } from '@ckpt/models'
import { LOADERS, topology, type Rates, type Simulation } from '@ckpt/planner'
import { Option, type Command } from 'commander'
import { readProfile } from '../plan/profile.ts'
import { describePublished, publishedScenarios } from '../plan/published.ts'
import { STRATEGIES, SYSTEMS, simulateAll } from '../plan/scenario.ts'
import { describe } from '../plan/text.ts'
import { describeValidation, validate } from '../plan/validate.ts'
import { parseCount } from '../sizes.ts'
import { UsageError } from '../usage.ts'

interface PlanOptions {
  readonly model: string
  readonly gpus: number
  readonly tp: number
  readonly topology: string
  readonly engine: string
  readonly strategy: Simulation['strategy'] | 'all'
  readonly system: Simulation['system'] | 'all'
  readonly profile?: string
  readonly published?: boolean
  readonly validate?: string
  readonly markdown?: boolean
  readonly json?: boolean
}

/** Maximum number of GPUs of a simulation. */
const MAX_GPUS = 4096

/** Adds `ckpt plan`. */
export function addPlan(program: Command): void {
  program
    .command('plan')
    .description("simulate updates of a model's full-size checkpoint with the real plans; nothing is moved")
    .addOption(new Option('--model <model>', 'model').choices(MODELS.map(({ id }) => id)).default('kimi-k2'))
    .addOption(new Option('--gpus <n>', `GPUs, one rank each; ${MAX_GPUS} at most`).argParser(parseCount(1)).default(256))
    .addOption(new Option('--tp <n>', 'GPUs of one engine').argParser(parseCount(1)).default(16))
    .option('--topology <name>', 'hosts of eight GPUs: GPU-NxRATEg, GPU one of h20, h100, h200, h800', 'h20-8x400g')
    .addOption(new Option('--engine <loader>', 'loader of the weights').choices(Object.keys(LOADERS)).default('reference'))
    .addOption(new Option('--strategy <name>', 'update strategy').choices([...STRATEGIES, 'all']).default('all'))
    .addOption(new Option('--system <name>', 'system to simulate').choices([...SYSTEMS, 'all']).default('all'))
    .option('--profile <file>', 'JSON with your own rates instead of those of the topology')
    .option('--published', "simulate the six rows of checkpoint-engine's published table instead")
    .option('--validate <file>', "compare predictions with the runs of a bench's JSON instead")
    .option('--markdown', 'print tables as Markdown')
    .option('--json', 'print JSON')
    .action(run)
}

/** @throws UsageError naming the option */
function topologyOf({ topology: name, engine }: PlanOptions): Rates {
  try {
    return topology(name, engine)
  } catch (error) {
    if (!CkptError.is(error, 'INVALID_ARGUMENT')) throw error
    throw new UsageError(`--topology ${name}: ${error.message}`)
  }
}

function run(options: PlanOptions): void {
  const { json = false, markdown = false } = options
  const print = (value: unknown, text: () => string) =>
    process.stdout.write(json ? `${JSON.stringify(value, undefined, 2)}\n` : text())
  if (options.validate !== undefined) {
    const validations = validate(options.validate)
    print({ schema: 1, validations }, () => describeValidation(validations, markdown))
    return
  }
  if (options.published) {
    const rows = publishedScenarios(options.engine)
    print({ schema: 1, rows }, () => describePublished(rows, markdown))
    return
  }
  if (options.gpus > MAX_GPUS) throw new UsageError(`--gpus ${options.gpus}: expected ${MAX_GPUS} at most`)
  if (options.gpus % options.tp !== 0)
    throw new UsageError(`--gpus ${options.gpus}: expected a multiple of --tp, ${options.tp}`)
  const named = topologyOf(options)
  const rates = options.profile === undefined ? named : readProfile(options.profile, named)
  const { model, gpus, tp } = options
  const simulations = simulateAll(
    { model, gpus, tp, rates },
    options.strategy === 'all' ? STRATEGIES : [options.strategy],
    options.system === 'all' ? SYSTEMS : [options.system],
  )
  print({ schema: 1, model, gpus, tp, rates, simulations }, () => {
    const title = `${model} on ${gpus} GPUs, engines of ${tp}, ${rates.name}\nrates: ${rates.source}\nloading: ${LOADERS[options.engine]!.source}`
    return `${title}\n\n${describe(simulations)}`
  })
}
