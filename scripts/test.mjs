#!/usr/bin/env node
// Every test this machine can run; then what it could not run and why; then one line with the counts.
// node scripts/test.mjs [--only unit|native|python|rdma] [--results FILE]
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { addResults, countLine, noResults } from './lib/results.mjs'
import { ROOT } from './lib/root.mjs'
import { nativeTests, pythonTests, rdmaTests, unitTests } from './lib/suites.mjs'
import { capabilities } from './lib/system.mjs'

const SUITES = { unit: unitTests, native: nativeTests, python: pythonTests, rdma: rdmaTests }
const TAGS = { gpu: 'tests tagged gpu', engine: 'tests tagged engine' }

const { values } = parseArgs({ options: { only: { type: 'string' }, results: { type: 'string' } } })
if (values.only !== undefined && !(values.only in SUITES)) {
  process.stderr.write(`--only takes one of ${Object.keys(SUITES).join(', ')}\n`)
  process.exit(2)
}

let stopped
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => (stopped = signal))

const available = capabilities(ROOT)
const total = noResults()
for (const [name, suite] of Object.entries(SUITES)) {
  if (stopped !== undefined || (values.only !== undefined && values.only !== name)) continue
  process.stdout.write(`\n== ${name} ==\n`)
  addResults(total, await suite())
}
if (stopped !== undefined) process.exit(stopped === 'SIGINT' ? 130 : 143)

if (total.failures.length > 0) process.stdout.write(`\nFailed:\n${total.failures.map((what) => `  - ${what}\n`).join('')}`)
report()
if (values.results !== undefined) writeFileSync(values.results, JSON.stringify(total))
process.stdout.write(`${countLine(total)}\n`)
process.exitCode = total.failed > 0 ? 1 : 0

/** What did not run, grouped by reason. */
function report() {
  const byReason = group(total.skipped)
  const absent = Object.entries(TAGS).filter(([tag]) => available[tag] !== undefined)
  if (byReason.size === 0 && absent.length === 0) return
  process.stdout.write('\nNot run on this machine:\n')
  for (const [tag, what] of absent) process.stdout.write(`  - ${what}: ${available[tag]}\n`)
  for (const [reason, tests] of byReason) {
    process.stdout.write(`  - ${reason}\n${tests.map(({ name }) => `      ${name}\n`).join('')}`)
  }
  process.stdout.write('\n')
}

function group(tests) {
  const groups = new Map()
  for (const test of tests) groups.set(reasonOf(test), [...(groups.get(reasonOf(test)) ?? []), test])
  return groups
}

function reasonOf({ reason }) {
  return reason ?? 'no reason given'
}
