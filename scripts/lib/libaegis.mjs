import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from './process.mjs'
import { ROOT } from './root.mjs'

/** Where the source of libaegis lies once it is here: CMake and the addon's inputs look for it. */
export const LIBAEGIS = join(ROOT, '.cache/libaegis')
const PYTHON = join(ROOT, 'scripts/python')
const LOCK = join(PYTHON, 'libaegis.lock')
const BUILD_LOCK = join(PYTHON, 'libaegis-build.lock')
const TIMEOUT_MS = 5 * 60_000

/** What names the wanted source. */
export const libaegisLock = () => readFileSync(LOCK, 'utf8')

/** Whether the source that the lock file names is here. */
export function libaegisIsHere() {
  const stamp = join(LIBAEGIS, '.lock')
  return existsSync(stamp) && readFileSync(stamp, 'utf8') === libaegisLock()
}

/**
 * Brings the source of libaegis: the source package of its Python binding, by its hash. All that pip installs for that, in an environment that
 * is removed again, is compared with hashes too.
 *
 * @returns {Promise<{ code: number | null, output: string }>} of the first command that failed, or of the last
 */
export async function fetchLibaegis() {
  mkdirSync(join(ROOT, '.cache'), { recursive: true })
  const scratch = mkdtempSync(join(ROOT, '.cache/libaegis-'))
  const options = { capture: true, timeoutMs: TIMEOUT_MS }
  const pip = [join(scratch, 'venv/bin/python'), '-m', 'pip', '--quiet', '--disable-pip-version-check', '--no-input']
  const source = ['--no-deps', '--no-build-isolation', '--no-binary', ':all:', '--require-hashes', '--requirement', LOCK]
  try {
    for (const [program, ...args] of [
      ['python3', '-m', 'venv', join(scratch, 'venv')],
      [...pip, 'install', '--require-hashes', '--no-deps', '--only-binary', ':all:', '--requirement', BUILD_LOCK],
      [...pip, 'download', ...source, '--dest', join(scratch, 'package')],
    ]) {
      const result = await run(program, args, options)
      if (result.code !== 0) return result
    }
    const [archive] = readdirSync(join(scratch, 'package'))
    mkdirSync(join(scratch, 'source'))
    const unpack = ['-xzf', join(scratch, 'package', archive), '--strip-components=1', '-C', join(scratch, 'source')]
    const unpacked = await run('tar', unpack, options)
    if (unpacked.code !== 0) return unpacked
    writeFileSync(join(scratch, 'source/.lock'), libaegisLock())
    rmSync(LIBAEGIS, { recursive: true, force: true })
    renameSync(join(scratch, 'source'), LIBAEGIS)
    return unpacked
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}
