// Code of an addon's install.mjs, which runs when its published package is installed.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * Builds an addon if no platform package provides it. It never fails the installation: the loader reports what is missing and
 * how to get it.
 * @param {string} url of the addon's install.mjs
 * @param {string} name of its package
 * @param {() => string | undefined} findAddon of its loader
 */
export function buildWhereMissing(url, name, findAddon) {
  if (findAddon() !== undefined || process.env.CKPT_SKIP_BUILD !== undefined) return
  const tool = createRequire(url).resolve('cmake-js/bin/cmake-js')
  const { status, stdout, stderr } = spawnSync(process.execPath, [tool, 'build', '--silent'], {
    cwd: dirname(fileURLToPath(url)),
    encoding: 'utf8',
  })
  if (status !== 0)
    process.stderr.write(`${stdout ?? ''}${stderr ?? ''}${name} was not built; loading it will report the remedy\n`)
}
