import { MODELS } from '@ckpt/models'
import { Command, InvalidArgumentError, Option } from 'commander'
import { DIRECTORY } from './output/files.ts'
import { ENGINE_MODELS } from './vllm/shapes.ts'

const MATRIX = ['glm-4.5-air', 'qwen3-235b-a22b', 'deepseek-v3.1', 'kimi-k2']

/** Options of the bench's command line. */
export interface Options {
  readonly engine: 'reference' | 'vllm'
  readonly model: string[]
  readonly backend: 'auto' | 'host' | 'cuda'
  readonly strategy: 'auto' | 'broadcast' | 'p2p' | 'direct' | 'all'
  readonly ranks: number
  readonly bytes: number
  readonly repeat: number
  readonly peer?: string
  readonly validate?: boolean
  readonly bucketBytes?: number
  readonly chunkBytes?: number
  readonly checkpoint?: string
  readonly metricsPort?: number
  readonly json?: string
  readonly report?: string
  readonly trace?: string
  readonly python?: string
  readonly engineArgs?: string
  readonly startTimeout: number
  readonly workDir?: string
}

function size(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?$/i.exec(text)
  if (!match) throw new InvalidArgumentError('expected a size such as 2GiB')
  return Math.round(Number(match[1]) * (match[3] ? 1024 : 1000) ** ' kmgt'.indexOf(match[2]?.toLowerCase() || ' '))
}

function count(text: string): number {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError('expected a whole number above 0')
  return value
}

/** The command line; `parse` it. */
export const program = new Command('bench')
  .description('Measures weight updates of published models, scaled down to this machine. Every byte is verified.')
  .addOption(
    new Option('--engine <engine>', 'inference engine: the reference engine of this project, or real vLLM')
      .choices(['reference', 'vllm'])
      .default('reference'),
  )
  .option(
    '--model <name...>',
    `models, or all: ${MODELS.map(({ id }) => id).join(', ')}; or row-parallel. With --engine vllm: ${ENGINE_MODELS.join(', ')} (default: the first)`,
    MATRIX,
  )
  .addOption(
    new Option('--backend <backend>', 'device of the engine parameters').choices(['auto', 'host', 'cuda']).default('auto'),
  )
  .addOption(
    new Option(
      '--strategy <strategy>',
      'update strategy; with --engine vllm auto (direct where it can be), broadcast or all (both), by default auto',
    )
      .choices(['auto', 'broadcast', 'p2p', 'direct', 'all'])
      .default('broadcast'),
  )
  .addOption(new Option('--ranks <n>', 'ranks, each with an engine worker').argParser(count).default(2))
  .addOption(
    new Option(
      '--bytes <size>',
      'size of each scaled checkpoint; with --engine vllm by default 15.22 GB on GPUs, 8 MB otherwise',
    )
      .argParser(size)
      .default(2 ** 30, '1GiB'),
  )
  .addOption(new Option('--repeat <n>', 'timed updates per model, verified and unverified').argParser(count).default(3))
  .addOption(
    new Option(
      '--peer <peer>',
      'measure a different system in the same run; with --engine vllm on the same server, in turns',
    ).choices(['checkpoint-engine']),
  )
  .option(
    '--validate',
    "compare updates (all strategies unless one is given, over 1, 2 and 4 ranks) with the simulator's predictions",
  )
  .addOption(new Option('--bucket-bytes <size>', 'preferred bucket size, on GPUs').argParser(size))
  .addOption(new Option('--chunk-bytes <size>', 'size of the chunks that stages overlap, on GPUs').argParser(size))
  .option('--checkpoint <dir>', 'use this checkpoint instead of generated ones')
  .addOption(
    new Option(
      '--metrics-port <port>',
      'serve metrics for Prometheus meanwhile (host backend): rank 0 on this port, the others on the ports after it',
    ).argParser(count),
  )
  .option('--python <path>', 'with --engine vllm: interpreter that has vLLM (default: CKPT_VLLM_PYTHON, otherwise python3)')
  .option(
    '--engine-args <arguments>',
    "with --engine vllm: further arguments of vLLM, such as '--enforce-eager --attention-backend TRITON_ATTN'",
  )
  .addOption(
    new Option('--start-timeout <seconds>', 'with --engine vllm: deadline for both servers to be healthy')
      .argParser(count)
      .default(600),
  )
  .option('--work-dir <dir>', 'with --engine vllm: directory for the checkpoints (default: /dev/shm if they fit)')
  .option('--json <file>', `the result as JSON (default: ${DIRECTORY}/bench.json)`)
  .option('--report <file>', `the result as a self-contained HTML page (default: ${DIRECTORY}/report.html)`)
  .option('--trace <file>', "write each run's last timed update as a trace for ui.perfetto.dev; one file per run")
