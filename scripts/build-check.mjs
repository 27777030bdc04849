#!/usr/bin/env node
// Builds every package and loads each public one as its users will: from dist, with plain Node, by its name.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { run } from './lib/process.mjs'
import { packageManagerEnv } from './lib/pnpm.mjs'
import { ROOT } from './lib/root.mjs'
import { workspacePackages } from './lib/workspace.mjs'

const env = packageManagerEnv()
const { code, output } = await run(
  process.execPath,
  [join(ROOT, 'node_modules/turbo/bin/turbo'), 'run', 'build', '--output-logs=errors-only'],
  {
    capture: true,
    env: { ...env, TURBO_TELEMETRY_DISABLED: '1', PATH: `${join(ROOT, 'node_modules/.bin')}:${env.PATH}` },
  },
)
if (code !== 0) {
  process.stderr.write(output)
  process.exit(1)
}

for (const { dir, name } of workspacePackages().filter(
  ({ dir, manifest }) => dir.startsWith('packages/') && manifest.private !== true,
)) {
  // A package may import itself by name: its "exports" then decide, without the condition that leads to the sources.
  const source = `const at = import.meta.resolve('${name}'); if (!at.endsWith('/dist/index.js')) throw new Error(at); await import('${name}')`
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', source], {
    cwd: join(ROOT, dir),
    encoding: 'utf8',
    timeout: 60_000,
  })
  if (status !== 0) {
    process.stderr.write(`${name} does not load from its build:\n${stderr}`)
    process.exitCode = 1
  }
}
