#!/usr/bin/env node
// Updates in a row, with what the ranks hold before and after: node scripts/soak.mjs [--updates N]
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { exitLike, run } from './lib/process.mjs'
import { ROOT } from './lib/root.mjs'

const { values } = parseArgs({ options: { updates: { type: 'string', default: '1000' } } })
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
