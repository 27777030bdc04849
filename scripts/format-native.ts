/** clang-format over C++ and CUDA sources: checks them, or with --write formats them. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { trackedFiles } from './lib/hygiene.ts'
import { probe } from './lib/process.mjs'
import { ROOT } from './lib/root.mjs'

const NATIVE = /[.](cc|cpp|h|hpp|cu|cuh)$/

const own = join(ROOT, '.venv/bin/clang-format')
const clangFormat = [existsSync(own) ? own : '', 'clang-format'].find(
  (path) => path && probe(path, ['--version']) !== undefined,
)
if (clangFormat === undefined) {
  process.stdout.write('SKIP clang-format: it is not here: `npm run setup:python` installs it\n')
} else {
  const mode = process.argv.includes('--write') ? ['-i'] : ['--dry-run', '--Werror']
  const files = trackedFiles().filter((file) => NATIVE.test(file))
  const { status } = spawnSync(clangFormat, [...mode, '--style=file', ...files], { cwd: ROOT, stdio: 'inherit' })
  process.exitCode = status ?? 1
}
