import { CkptError } from '@ckpt/contract'
import { Option, type Command } from 'commander'

interface CompatOptions {
  readonly python: string
  readonly backend: 'cuda' | 'stand-in'
  readonly json?: boolean
}

interface Outcome {
  readonly name: string
  readonly result: 'passed' | 'failed' | 'skipped'
  readonly milliseconds?: number
  /** Why it failed or was skipped. */
  readonly reason?: string
}

/** Adds `ckpt compat`. */
export function addCompat(program: Command): void {
  program
    .command('compat')
    .description(
      "update checkpoint-engine's own stock worker on this machine in every way that it knows, and compare every byte; part of the bundle and of a clone",
    )
    .option('--python <interpreter>', 'interpreter with torch and checkpoint-engine', process.env['CKPT_PYTHON'] ?? 'python3')
    .addOption(
      new Option('--backend <backend>', 'cuda: on the GPUs of this machine; stand-in: host memory in their place')
        .choices(['cuda', 'stand-in'])
        .default('cuda'),
    )
    .option('--json', 'print JSON')
    .action(async ({ python, backend, json }: CompatOptions) => {
      const outcomes: Outcome[] = []
      for await (const outcome of outcomesOf(python, backend)) {
        outcomes.push(outcome)
        const { name, result, milliseconds, reason } = outcome
        const time = milliseconds === undefined ? '' : ` (${milliseconds.toFixed(0)} ms)`
        if (!json) process.stdout.write(`${result} ${name}${time}${reason === undefined ? '' : `: ${reason}`}\n`)
      }
      const count = (result: Outcome['result']) => outcomes.filter((outcome) => outcome.result === result).length
      const counts = { passed: count('passed'), failed: count('failed'), skipped: count('skipped') }
      if (json) process.stdout.write(`${JSON.stringify({ ...counts, checks: outcomes }, null, 2)}\n`)
      else process.stdout.write(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped\n`)
      if (counts.failed > 0) process.exitCode = 1
    })
}

/** Runs the checks, one after the other. @throws CkptError `UNSUPPORTED` where they are not installed. */
async function* outcomesOf(python: string, backend: 'cuda' | 'stand-in'): AsyncGenerator<Outcome> {
  const { COMPAT_CHECKS, stockWorkerMissing, visibleGpus } = await import('@ckpt/testing').catch((error: unknown) => {
    throw CkptError.from(error, 'UNSUPPORTED', '`ckpt compat` is part of the bundle and of a clone, not of the npm package')
  })
  const gpus = backend === 'cuda' ? await visibleGpus() : Infinity
  const missing = stockWorkerMissing(python)
  for (const { name, ranks, run } of COMPAT_CHECKS) {
    const lacks = gpus < ranks ? `needs ${ranks} GPUs, this machine has ${gpus}` : undefined
    const reason = missing ?? lacks
    if (reason !== undefined) {
      yield { name, result: 'skipped', reason }
      continue
    }
    const started = performance.now()
    try {
      await run({ python, backend })
      yield { name, result: 'passed', milliseconds: performance.now() - started }
    } catch (error) {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
      yield { name, result: 'failed', milliseconds: performance.now() - started, reason: text }
    }
  }
}
