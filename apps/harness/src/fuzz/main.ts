/** Fuzzers; `--help` says how they are asked for. Exit code 1 when an input failed. */
import { parseArgs } from 'node:util'
import { Fuzzing } from './fuzzing.ts'
import { targets } from './targets.ts'

const USAGE = `usage: npm run fuzz -- [options]

Each target runs for M minutes, one after another. Inputs that fail are kept in build/fuzz and named; the exit code is then 1. Line by line:
PASS, FAIL or SKIP, the target, and what was seen. Native targets are built with AddressSanitizer, UBSan and leak detection.

  --minutes M         how long each target runs (default 1)
  --target NAME,...   only these (default: all)
  --seed S            start of the random numbers (default: of the clock)
  --list              print the targets, and why one cannot run here
  --replay FILE       run one input, of the one target that --target names
`
const { values } = parseArgs({
  options: {
    help: { type: 'boolean', short: 'h', default: false },
    minutes: { type: 'string', default: '1' },
    target: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 1e6) },
    list: { type: 'boolean', default: false },
    replay: { type: 'string' },
  },
})
if (values.help) {
  process.stdout.write(USAGE)
  process.exit(0)
}
const seconds = Number(values.minutes) * 60
if (!(seconds > 0) || !Number.isSafeInteger(Number(values.seed))) {
  process.stderr.write('--minutes takes a number above 0, --seed a whole number\n')
  process.exit(2)
}
const all = targets()
if (values.list) {
  for (const { name, kind, missing } of all)
    process.stdout.write(`${name} (${kind})${missing === undefined ? '' : `: ${missing}`}\n`)
  process.exit(0)
}
const names = values.target?.split(',') ?? all.map(({ name }) => name)
for (const name of names.filter((one) => !all.some((target) => target.name === one))) {
  process.stderr.write(`there is no target "${name}"; --list names them\n`)
  process.exit(2)
}

using fuzzing = new Fuzzing(Number(values.seed), seconds, values.replay)
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => {
    fuzzing[Symbol.dispose]()
    process.exit(130)
  })
let failed = 0
for (const target of all.filter(({ name }) => names.includes(name))) {
  if (target.missing !== undefined) {
    process.stdout.write(`SKIP ${target.name}: ${target.missing}\n`)
    continue
  }
  const { ok, text } = await fuzzing.run(target)
  if (!ok) failed++
  process.stdout.write(`${ok ? 'PASS' : 'FAIL'} ${target.name}: ${text.trim()}\n`)
}
process.exitCode = failed > 0 ? 1 : 0
