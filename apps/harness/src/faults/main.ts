/** Fault campaigns; `--help` lists the options. Exit code 1 if an invariant was broken. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { clockProblem, copyCheckpoint, generateCheckpoint, Hosts, hostsProblem } from '@ckpt/testing'
import { catalogue, runCampaign } from './campaign.ts'
import { POINTS } from './fault.ts'
import { STRATEGIES } from './fault-cluster.ts'
import { enterSandbox, outsideBecause } from './sandbox.ts'
import { listOf, table } from './table.ts'

const USAGE = `usage: faults [options]

Injects faults into a cluster of real processes, one at a time, in random updates and registrations. After each it checks that no process
hangs, that all survivors learn the cause in time, that nothing is left behind, and that the next update is correct. Exit code 1 if a check fails.

  --trials N          total number of faults (default 60)
  --seed S            the same seed gives the same faults, points, strategies, victims and delays (default: from the clock)
  --ranks N           ranks, each with an engine worker (default 3)
  --hosts N           ranks on N hosts out of namespaces, the last one's clock 5 minutes ahead, and faults of hosts and their links
  --window MS         silence after which a rank is lost (default 1000)
  --timeout MS        deadline of every wait (default 4000)
  --only TEXT[,TEXT]  only faults whose name contains one of these
  --point POINT       only at this point: register, gather, begin, plan, attach, h2d, broadcast, reload, release, commit, any
  --strategy NAME     only updates of this strategy: broadcast, p2p, direct
  --json FILE         write all results
  --verbose           print every survivor's error
  --list              print the faults with their points, and those that cannot be injected here
`

const { values } = parseArgs({
  options: {
    trials: { type: 'string', default: '60' },
    seed: { type: 'string', default: String(Date.now() % 1e6) },
    ranks: { type: 'string', default: '3' },
    hosts: { type: 'string' },
    window: { type: 'string', default: '1000' },
    timeout: { type: 'string', default: '4000' },
    only: { type: 'string', default: '' },
    json: { type: 'string' },
    point: { type: 'string' },
    strategy: { type: 'string' },
    verbose: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  process.stdout.write(USAGE)
  process.exit(0)
}

/** Returns one of `names`, if given. */
function oneOf<T extends string>(name: string, names: readonly T[], value: string | undefined): T | undefined {
  const found = names.find((one) => one === value)
  if (value === undefined || found !== undefined) return found
  process.stderr.write(`--${name} takes one of ${names.join(', ')}, not ${value}\n`)
  process.exit(2)
}

function number(name: 'trials' | 'seed' | 'ranks' | 'hosts' | 'window' | 'timeout', least: number): number {
  const value = Number(values[name])
  if (Number.isSafeInteger(value) && value >= least) return value
  process.stderr.write(`--${name} takes an integer from ${least}, not ${values[name]}\n`)
  process.exit(2)
}

const options = {
  trials: number('trials', 1),
  seed: number('seed', 0),
  ranks: number('ranks', 2),
  windowMs: number('window', 200),
  timeoutMs: number('timeout', 1000),
}
const point = oneOf('point', POINTS, values.point)
const strategy = oneOf('strategy', STRATEGIES, values.strategy)
const onHosts = values.hosts !== undefined
const hostCount = onHosts ? number('hosts', 2) : 0
const selection = {
  onHosts,
  only: values.only.split(','),
  ...(point && { point }),
  ...(strategy && { strategy }),
}
await enterSandbox()
if (values.list) {
  process.stdout.write(`${listOf(catalogue(selection))}\n`)
  process.exit(0)
}

const problem = onHosts ? hostsProblem() : undefined
if (problem !== undefined) {
  process.stdout.write(`SKIP ${problem}\n`)
  process.exit(0)
}
const noClock = onHosts ? clockProblem() : undefined
if (noClock !== undefined) process.stdout.write(`not run: clock 5 minutes ahead: ${noClock}\n`)
const ahead = (index: number) => (index === hostCount - 1 && noClock === undefined ? { clockSeconds: 300 } : {})
await using hosts = onHosts ? await Hosts.create({ count: hostCount, each: ahead }) : undefined
using generated = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 8 * 2 ** 20, BigInt(options.seed), 'faults')
// Temporary files of this process are seen from all hosts, unlike /dev/shm.
const copy = mkdtempSync(join(tmpdir(), 'ckpt-faults-'))
const checkpoint = onHosts ? copyCheckpoint(generated, copy) : generated
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
  ...(hosts && { hosts }),
  ...selection,
  onResult(result) {
    const { trial, fault, point, strategy, victim, state, codes, errorMs, totalMs, breaks, errors } = result
    const error = errorMs === undefined ? '' : ` after ${(errorMs / 1000).toFixed(2)} s (${codes.join(' ')})`
    process.stdout.write(
      `${String(trial).padStart(4)} ${breaks.length > 0 ? 'BROKEN' : 'ok'} ${fault} at ${point}${strategy ? ` of ${strategy}` : ''}, rank ${victim}: ${state}${error}, ` +
        `${(totalMs / 1000).toFixed(1)} s in total\n`,
    )
    for (const what of breaks) process.stdout.write(`       ${what}\n`)
    if (values.verbose) for (const what of errors) process.stdout.write(`       - ${what}\n`)
  },
})
rmSync(copy, { recursive: true })
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
