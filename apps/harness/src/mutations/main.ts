/** Mutation campaigns; `--help` lists the options. Exit code 1 if a fault was missed, or the update after it was wrong. */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { generateCheckpoint, hostsProblem, mutationsOf, Random, type Way, WAYS } from '@ckpt/testing'
import { MutationCluster, REMOTE } from './mutation-cluster.ts'
import { runMutations, type MutationTrial } from './mutation-trials.ts'

const USAGE = `usage: mutations [options]

In clusters of real processes, changes one byte or one copy of one update at a time, or swaps a file. The update must fail because of it;
after a file was swapped, all engines may also hold the registered contents. The next update, without a fault, must reach every engine, whose
parameters are then compared with the files. Exit code 1 if a check fails.

  --trials N    total number of faults, divided evenly among the ways of updating (default 200)
  --seed S      the same seed gives the same faults (default: from the clock)
  --way NAME    only updates of this way: ${WAYS.join(', ')}
  --ranks N     ranks, each with an engine worker (default 3)
  --json FILE   write all results
`

const { values } = parseArgs({
  options: {
    trials: { type: 'string', default: '200' },
    seed: { type: 'string', default: String(Date.now() % 1e6) },
    ranks: { type: 'string', default: '3' },
    way: { type: 'string' },
    json: { type: 'string' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  process.stdout.write(USAGE)
  process.exit(0)
}

function refuse(message: string): never {
  process.stderr.write(`${message}\n`)
  process.exit(2)
}

function number(name: 'trials' | 'seed' | 'ranks', least: number): number {
  const value = Number(values[name])
  return Number.isSafeInteger(value) && value >= least
    ? value
    : refuse(`--${name} takes an integer from ${least}, not ${values[name]}`)
}

const [trials, seed, ranks] = [number('trials', 1), number('seed', 0), number('ranks', 2)]
const ways = WAYS.filter((way) => values.way === undefined || way === values.way)
if (ways.length === 0) refuse(`--way takes one of ${WAYS.join(', ')}, not ${values.way}`)

const started = performance.now()
const missing: string[] = []
const results: MutationTrial[] = []
process.stdout.write(`${trials} faults, seed ${seed}, ${ranks} ranks\n`)
for (const [index, way] of ways.entries()) {
  const problem = way === 'remote' ? hostsProblem(REMOTE) : undefined
  if (problem === undefined) results.push(...(await trialsOf(way, share(index))))
  else missing.push(`${way}: ${problem}`)
}
const seconds = (performance.now() - started) / 1000
const wrong = results.filter(
  ({ outcome, afterwards }) => ['missed', 'failed'].includes(outcome) || afterwards !== undefined,
).length
process.stdout.write(`\n${summary().join('\n')}\n\n`)
process.stdout.write(
  `${results.length} faults in ${seconds.toFixed(0)} s (seed ${seed}): ${results.length - wrong} found or harmless, ${wrong} not\n`,
)
if (values.json !== undefined) {
  writeFileSync(values.json, JSON.stringify({ schema: 1, seed, ranks, seconds, wrong, missing, results }, undefined, 2))
}
process.exitCode = wrong > 0 || results.length < trials ? 1 : 0

/** Returns the number of trials for the way at `index`. */
function share(index: number): number {
  return Math.floor((trials * (index + 1)) / ways.length) - Math.floor((trials * index) / ways.length)
}

async function trialsOf(way: Way, count: number): Promise<MutationTrial[]> {
  const host = createHost()
  const generate = (start: bigint, name: string) =>
    generateCheckpoint(host, model('qwen3-30b-a3b'), 2 * 2 ** 20, start, `mutations-${way}-${name}`)
  using first = await generate(BigInt(seed) + 1n, 'a')
  using second = await generate(BigInt(seed) + 1_000_003n, 'b')
  await using cluster = await MutationCluster.start({ way, checkpoints: [first, second], ranks })
  return await runMutations(cluster, count, new Random(seed + WAYS.indexOf(way)), ({ kind, outcome, said, afterwards }) => {
    process.stdout.write(
      `${['missed', 'failed'].includes(outcome) ? outcome.toUpperCase() : outcome.padEnd(6)} ${way}: ${kind}: ${said}\n`,
    )
    if (afterwards !== undefined) process.stdout.write(`       the next update was WRONG: ${afterwards}\n`)
  })
}

/** One line per way and kind: how many were found, and how the update failed. */
function summary(): string[] {
  const lines = ways.flatMap((way) =>
    mutationsOf(way).flatMap((kind) => {
      const some = results.filter((result) => result.way === way && result.kind === kind)
      if (some.length === 0) return []
      const [found, whole] = (['found', 'whole'] as const).map((one) => some.filter(({ outcome }) => outcome === one).length)
      const asRegistered = whole! > 0 ? `, ${whole} served as registered` : ''
      return [
        `${way}, ${kind}: ${found} of ${some.length} found${asRegistered} (${[...new Set(some.map(({ said }) => said))].join(', ')})`,
      ]
    }),
  )
  return [...lines, ...missing.map((what) => `not run: ${what}`)]
}
