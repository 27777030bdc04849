import { dirname } from 'node:path'
import { createHost } from '@ckpt/transport'
import { vllmEnvironment } from '@ckpt/testing'
import { machine } from '../machine.ts'
import type { BenchResult, EngineStrategy, Skipped } from '../result.ts'
import { splitArguments } from './engine-arguments.ts'
import { measureVllm } from './measure.ts'
import { ENGINE_MODELS, type EngineModel } from './shapes.ts'

/** 12 layers of the widest shape, and a size that two cores load and answer quickly. */
const DEFAULT_BYTES = { cuda: 15_220_000_000, host: 8_000_000 } as const

export interface EngineBenchOptions {
  readonly backend: 'host' | 'cuda'
  readonly ranks: number
  readonly repeat: number
  readonly peer: boolean
  /** Absent for the default of the backend. */
  readonly bytes?: number
  /** Absent for the first of `ENGINE_MODELS`. */
  readonly models?: readonly string[]
  readonly strategies: readonly EngineStrategy[]
  readonly python?: string
  readonly engineArgs?: string
  readonly startTimeoutSeconds: number
  readonly workDirectory?: string
  /** Path of the JSON, beside which the servers' output is written. */
  readonly json: string
}

/** Runs the bench of real vLLM; each step is one line on stderr, with the seconds since the process began. */
export async function benchVllm(options: EngineBenchOptions): Promise<BenchResult> {
  const startedAt = new Date().toISOString()
  const { backend, ranks, repeat, strategies, engineArgs = '', models = [ENGINE_MODELS[0]] } = options
  const { python, bytes = DEFAULT_BYTES[backend], workDirectory, startTimeoutSeconds } = options
  const skipped: Skipped[] = []
  if (options.peer && backend === 'host') {
    skipped.push({ what: 'updates by checkpoint-engine', reason: 'it needs GPUs (--backend cuda)' })
  }
  const results = []
  for (const model of models.map(engineModel)) {
    results.push(
      await measureVllm({
        ...{ host: createHost(), backend, ranks, repeat, strategies, model, bytes, say },
        python: python ?? (await defaultPython()),
        peer: options.peer && backend === 'cuda',
        engineArguments: splitArguments(engineArgs),
        startTimeoutMs: startTimeoutSeconds * 1000,
        ...(workDirectory !== undefined && { workDirectory }),
        logs: dirname(options.json),
      }),
    )
  }
  const gpus = results[0]?.gpus
  return {
    schema: 2,
    startedAt,
    machine: machine(),
    ceilings: { copyBytesPerSecond: Math.max(...results.map(({ copyBytesPerSecond }) => copyBytesPerSecond)) },
    ...(gpus && { gpus }),
    runs: results.flatMap(({ runs }) => runs),
    peers: results.flatMap(({ peers }) => peers),
    skipped: [...skipped, ...results.flatMap((result) => result.skipped)],
  }
}

function say(step: string): void {
  process.stderr.write(`[${(performance.now() / 1000).toFixed(1).padStart(6)} s] ${step}\n`)
}

/** The environment that tests of real vLLM use, if there is one. */
async function defaultPython(): Promise<string> {
  const environment = await vllmEnvironment()
  return environment.missing === undefined ? environment.python : 'python3'
}

/** @throws RangeError that lists the models. */
function engineModel(name: string): EngineModel {
  const found = ENGINE_MODELS.find((model) => model === name)
  if (found === undefined) throw new RangeError(`--model ${name}: with --engine vllm it is one of ${ENGINE_MODELS.join(', ')}`)
  return found
}
