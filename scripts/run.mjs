#!/usr/bin/env node
// A program with all set-up done first: node scripts/run.mjs <bench|test|ckpt|faults|mutations> [args…]
import { join } from 'node:path'
import { exitLike, run } from './lib/process.mjs'
import { ROOT } from './lib/root.mjs'
import { sourceArguments } from './lib/source.mjs'
import { ensureSetup, SetupError } from './setup.mjs'

const PROGRAMS = {
  bench: 'apps/bench/src/main.ts',
  'bench:tcp': 'apps/bench/src/tcp-cost.ts',
  ckpt: 'apps/cli/src/main.ts',
  faults: 'apps/harness/src/faults/main.ts',
  mutations: 'apps/harness/src/mutations/main.ts',
}
const SCRIPTS = { test: 'scripts/test.mjs' }

const [what, ...rest] = process.argv.slice(2)
// npm swallows the `--` that separates its own arguments, pnpm hands it on.
const args = rest[0] === '--' ? rest.slice(1) : rest

if (!(what in PROGRAMS) && !(what in SCRIPTS)) {
  process.stderr.write(
    `usage: node scripts/run.mjs <${[...Object.keys(PROGRAMS), ...Object.keys(SCRIPTS)].join('|')}> [args…]\n`,
  )
  process.exit(2)
}

try {
  await ensureSetup()
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  process.stderr.write(`${error.message}\n`)
  process.exit(1)
}
exitLike(await run(process.execPath, [...command(), ...args], { cwd: process.env.INIT_CWD ?? process.cwd() }))

function command() {
  return what in SCRIPTS ? [join(ROOT, SCRIPTS[what])] : sourceArguments(PROGRAMS[what])
}
