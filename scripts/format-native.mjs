#!/usr/bin/env node
// clang-format over C++ and CUDA sources: checks them, or with --write formats them. Exit code 3: clang-format is not here.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { trackedFiles } from './lib/files.mjs'
import { probe } from './lib/process.mjs'
import { ROOT } from './lib/root.mjs'

const NATIVE = /[.](cc|cpp|h|hpp|cu|cuh)$/
const NOT_HERE = 3

const clangFormat = [join(ROOT, '.venv/bin/clang-format'), 'clang-format'].find(
  (path) => (!path.startsWith('/') || existsSync(path)) && probe(path, ['--version']) !== undefined,
)
if (clangFormat === undefined) {
  process.stderr.write('clang-format is not here: `npm run setup:python` installs it\n')
  process.exit(NOT_HERE)
}
const files = trackedFiles().filter((file) => NATIVE.test(file))
if (files.length > 0) {
  const mode = process.argv.includes('--write') ? ['-i'] : ['--dry-run', '--Werror']
  const { status } = spawnSync(clangFormat, [...mode, '--style=file', ...files], { cwd: ROOT, stdio: 'inherit' })
  process.exitCode = status ?? 1
}
