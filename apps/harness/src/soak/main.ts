/** Updates in a row, with what the ranks hold before and after; `--help` says how they are asked for. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const USAGE = `usage: npm run test:soak -- [--updates N]

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
  process.stderr.write('--updates takes an integer from 40\n')
  process.exit(2)
}
const root = fileURLToPath(new URL('../../../..', import.meta.url))
const vitest = join(root, 'node_modules/vitest/vitest.mjs')
const child = spawn(process.execPath, [vitest, 'run', 'apps/harness/src/soak.test.ts', '--disable-console-intercept'], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, CKPT_SOAK_UPDATES: String(updates) },
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
const [code] = (await once(child, 'close')) as [number | null]
process.exitCode = code ?? 1
