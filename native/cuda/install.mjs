// Run when the published package is installed: builds the addon where no platform package brought it. It never fails the installation:
// the loader says what is missing and how to get it.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { findAddon } from './index.mjs'

const directory = dirname(fileURLToPath(import.meta.url))
if (findAddon() === undefined && process.env.CKPT_SKIP_BUILD === undefined) {
  const tool = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js')
  const { status, stdout, stderr } = spawnSync(process.execPath, [tool, 'build', '--silent'], {
    cwd: directory,
    encoding: 'utf8',
  })
  if (status !== 0)
    process.stderr.write(`${stdout ?? ''}${stderr ?? ''}@ckpt/native-cuda was not built; loading it will say what to do\n`)
}
