import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from './process.mjs'

const INSTALL_TIMEOUT_MS = 10 * 60_000

/**
 * An empty project in `directory` with these packages or tarballs installed by npm.
 * @throws Error with what npm said
 */
export async function installInto(directory, packages, { env = process.env } = {}) {
  mkdirSync(directory, { recursive: true })
  writeFileSync(
    join(directory, 'package.json'),
    JSON.stringify({ name: 'empty', version: '1.0.0', private: true, type: 'module' }),
  )
  const { code, output } = await run('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', ...packages], {
    cwd: directory,
    capture: true,
    timeoutMs: INSTALL_TIMEOUT_MS,
    env,
  })
  if (code !== 0) throw new Error(`npm install failed (${code}):\n${output}`)
}
