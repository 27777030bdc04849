#!/usr/bin/env node
// The unit tests, and an update over real processes, on other versions of Node: node scripts/test-nodes.mjs [VERSION…] [--all]
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { installInto } from './lib/npm.mjs'
import { run } from './lib/process.mjs'
import { ROOT } from './lib/root.mjs'
import { ensureSetup } from './setup.mjs'

const VERSIONS = ['22', '24']
const TEST_TIMEOUT_MS = 40 * 60_000
/** What another Node can break: addons, sockets, workers, file handles, loading of modules. The rest does the same on all of them. */
const CHOSEN = [
  'packages/safetensors',
  'packages/memory',
  'packages/transport/src/host',
  'packages/rendezvous',
  'packages/core',
  'packages/planner/src/simulate',
  'apps/harness/src/update.test.ts',
]

const { values, positionals } = parseArgs({
  options: { all: { type: 'boolean' }, help: { type: 'boolean' } },
  allowPositionals: true,
})
if (values.help) {
  process.stdout.write('usage: pnpm test:nodes [VERSION…] [--all]   (default: 22 24; --all runs every vitest test)\n')
  process.exit(0)
}
await ensureSetup()
let failed = false
for (const version of positionals.length > 0 ? positionals : VERSIONS) {
  const node = await install(version)
  process.stdout.write(`\n== Node ${version} ==\n`)
  const start = performance.now()
  const { code } = await run(node, [join(ROOT, 'node_modules/vitest/vitest.mjs'), 'run', ...(values.all ? [] : CHOSEN)], {
    timeoutMs: TEST_TIMEOUT_MS,
    env: { ...process.env, PATH: `${join(node, '..')}:${process.env.PATH}` },
  })
  failed ||= code !== 0
  process.stdout.write(
    `${code === 0 ? 'PASS' : 'FAIL'} Node ${version} (${((performance.now() - start) / 1000).toFixed(0)} s)\n`,
  )
}
process.exitCode = failed ? 1 : 0

/** Path of that Node, from npm's package of its binaries. */
async function install(version) {
  const directory = join(ROOT, '.cache/nodes', version)
  const node = join(directory, 'node_modules/node/bin/node')
  if (existsSync(node)) return node
  await installInto(directory, [`node@${version}`])
  if (!existsSync(node)) throw new Error(`npm's node@${version} has no ${node}`)
  return node
}
