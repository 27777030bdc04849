/**
 * Wheels of the Python distribution `ckpt`: `npm run wheels [-- --out DIR] [--no-check]`. The one for this platform contains the rank
 * program, its addons and its Node; it is installed into a new environment, where a trainer updates an engine worker.
 */
import { statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { pythonLacks } from './lib/python.ts'
import { ROOT } from './lib/root.mjs'
import { checkWheel } from './lib/wheel-check.ts'
import { buildWheels } from './lib/wheels.ts'

const { values } = parseArgs({
  options: { out: { type: 'string' }, 'no-check': { type: 'boolean' }, help: { type: 'boolean' } },
})
if (values.help) {
  process.stdout.write('usage: npm run wheels -- [--out DIR] [--no-check]\n')
  process.exit(0)
}
const reason = pythonLacks(['hatchling', 'torch', 'zmq', 'msgspec'])
if (reason !== undefined) {
  process.stderr.write(`wheels cannot be built: ${reason}\n`)
  process.exit(1)
}
const out = values.out === undefined ? join(ROOT, 'wheels') : resolve(process.env['INIT_CWD'] ?? process.cwd(), values.out)
const { pure, platform } = await buildWheels(out)
for (const file of [pure, platform]) process.stdout.write(`${file}: ${(statSync(file).size / 1e6).toFixed(1)} MB\n`)
if (!values['no-check']) process.stdout.write(`installed, without Node on the PATH: ${await checkWheel(platform)}\n`)
