/**
 * Fault campaigns: `node main.ts [--trials N] [--seed S] [--ranks N] [--window MS] [--timeout MS] [--only TEXT] [--json FILE] [--verbose]`.
 * Exit code 1 when an invariant broke.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { generateCheckpoint } from '../checkpoint/generate.ts'
import { runCampaign } from './campaign.ts'
import { enterSandbox, outsideBecause } from './sandbox.ts'
import { table } from './table.ts'

const { values } = parseArgs({
  options: {
    trials: { type: 'string', default: '60' },
    seed: { type: 'string', default: String(Date.now() % 1e6) },
    ranks: { type: 'string', default: '3' },
    window: { type: 'string', default: '1000' },
    timeout: { type: 'string', default: '4000' },
    only: { type: 'string', default: '' },
    json: { type: 'string' },
    verbose: { type: 'boolean', default: false },
  },
})

function number(name: 'trials' | 'seed' | 'ranks' | 'window' | 'timeout', least: number): number {
  const value = Number(values[name])
  if (Number.isSafeInteger(value) && value >= least) return value
  process.stderr.write(`--${name} takes a whole number of at least ${least}, not ${values[name]}\n`)
  process.exit(2)
}

const options = {
  trials: number('trials', 1),
  seed: number('seed', 0),
  ranks: number('ranks', 2),
  windowMs: number('window', 200),
  timeoutMs: number('timeout', 1000),
}
await enterSandbox()

using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 8 * 2 ** 20, BigInt(options.seed), 'faults')
const outside = outsideBecause()
const limit = (options.windowMs + 1000) / 1000
process.stdout.write(
  `${options.trials} trials, seed ${options.seed}, ${options.ranks} ranks, heartbeat window ${options.windowMs} ms, deadline of waits ` +
    `${options.timeoutMs} ms${outside === undefined ? '' : `; no sandbox: ${outside}`}\n`,
)
const started = performance.now()
const campaign = await runCampaign({
  ...options,
  checkpoint,
  only: values.only,
  onResult(result) {
    const { trial, fault, point, victim, state, codes, errorMs, totalMs, breaks, errors } = result
    const error = errorMs === undefined ? '' : ` after ${(errorMs / 1000).toFixed(2)} s (${codes.join(' ')})`
    process.stdout.write(
      `${String(trial).padStart(4)} ${breaks.length > 0 ? 'BROKEN' : 'ok'} ${fault} at ${point}, rank ${victim}: ${state}${error}, ` +
        `${(totalMs / 1000).toFixed(1)} s in all\n`,
    )
    for (const what of breaks) process.stdout.write(`       ${what}\n`)
    if (values.verbose) for (const what of errors) process.stdout.write(`       - ${what}\n`)
  },
})
const { results } = campaign
const broken = results.filter(({ breaks }) => breaks.length > 0).length
const seconds = (performance.now() - started) / 1000
process.stdout.write(`\n${table(campaign)}\n\n`)
process.stdout.write(
  `${results.length} trials in ${seconds.toFixed(0)} s (seed ${options.seed}): ${broken} broke an invariant; survivors of lost ranks, ` +
    `connections and engines must know within ${limit} s\n`,
)
if (values.json !== undefined) {
  writeFileSync(values.json, JSON.stringify({ schema: 1, ...options, seconds, broken, ...campaign }, undefined, 2))
}
process.exitCode = broken > 0 || results.length < options.trials ? 1 : 0
