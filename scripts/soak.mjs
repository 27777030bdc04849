#!/usr/bin/env node
// Updates in a row, with what the ranks hold before and after; --help says how they are asked for.
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { exitLike, run } from './lib/process.mjs'
import { ROOT } from './lib/root.mjs'

const USAGE = `usage: node scripts/soak.mjs [--updates N]

N updates in a row (default 1000, at least 40) on a cluster of two ranks, once with rings kept between them and once with rings released; prints
what the ranks hold after the first tenth and at the end, and fails where memory, files, mappings or shared memory have grown.
`
const { values } = parseArgs({
  options: { updates: { type: 'string', default: '1000' }, help: { type: 'boolean', short: 'h', default: false } },
})
if (values.help) {
  process.stdout.write(USAGE)
  process.exit(0)
}
const updates = Number(values.updates)
if (!Number.isSafeInteger(updates) || updates < 40) {
  process.stderr.write('--updates takes a whole number of at least 40\n')
  process.exit(2)
}
const vitest = [
  join(ROOT, 'node_modules/vitest/vitest.mjs'),
  'run',
  'apps/harness/src/soak.test.ts',
  '--disable-console-intercept',
]
exitLike(await run(process.execPath, vitest, { cwd: ROOT, env: { ...process.env, CKPT_SOAK_UPDATES: String(updates) } }))
