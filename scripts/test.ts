/** Every test this machine can run, what it could not run and why, and the counts: `npm test [-- --only SUITE,… FILTER of vitest…]` */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { checks } from './lib/checks.ts'
import { addResults, noResults, report } from './lib/results.ts'
import { ROOT } from './lib/root.mjs'
import {
  engineTests,
  hostTests,
  nativeTests,
  nodeTests,
  pythonTests,
  rdmaTests,
  trainerTests,
  unitTests,
} from './lib/suites.ts'
import { capabilities } from './lib/system.mjs'

const SUITES = {
  checks,
  unit: unitTests,
  native: nativeTests,
  python: pythonTests,
  rdma: rdmaTests,
  nodes: nodeTests,
  engine: engineTests,
  trainers: trainerTests,
  hosts: hostTests,
}
type Suite = keyof typeof SUITES

const { values, positionals } = parseArgs({
  options: { only: { type: 'string', default: 'unit,native,python,rdma' } },
  allowPositionals: true,
})
const chosen = values.only.split(',') as Suite[]
const unknown = chosen.find((name) => !Object.hasOwn(SUITES, name))
if (unknown !== undefined) {
  process.stderr.write(`--only takes some of ${Object.keys(SUITES).join(',')}, not ${unknown}\n`)
  process.exit(2)
}
let stopped: number | undefined
process.on('SIGINT', () => (stopped = 130))
process.on('SIGTERM', () => (stopped = 143))

const results = mkdtempSync(join(tmpdir(), 'ckpt-test-'))
const total = noResults()
try {
  for (const name of chosen) {
    process.stdout.write(`\n== ${name} ==\n`)
    try {
      addResults(total, await SUITES[name]({ results, filters: positionals }))
    } catch (error) {
      total.failures.push(`${name}: ${(error as Error).message}`)
    }
    if (stopped !== undefined) process.exit(stopped)
  }
} finally {
  rmSync(results, { recursive: true, force: true })
}
if (chosen.includes('python') && !chosen.includes('trainers')) {
  process.stdout.write('\nNot run: tests with training frameworks: they have a command of their own, `npm run test:trainers`\n')
}
if (chosen.includes('unit')) {
  const { gpu, engine } = capabilities(ROOT)
  for (const reason of [gpu && `gpu: ${gpu}`, !chosen.includes('engine') && `engine: ${engine}`])
    if (reason) process.stdout.write(`\nNot run: tests tagged ${reason}\n`)
}
process.exitCode = report(total)
