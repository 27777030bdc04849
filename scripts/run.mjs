#!/usr/bin/env node
// A program with all set-up done first: node scripts/run.mjs NAME [args…], where NAME is one of these or of a script beside this file
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { exitLike, run } from './lib/process.mjs'
import { ROOT, sourceArguments } from './lib/root.mjs'
import { ensureSetup, SetupError } from './setup.mjs'

const PROGRAMS = {
  bench: 'apps/bench/src/main.ts',
  'bench:tcp': 'apps/bench/src/tcp-cost.ts',
  'bench:wires': 'apps/bench/src/wires.ts',
  bundle: 'packages/bundle/src/main.ts',
  ckpt: 'apps/cli/src/main.ts',
  faults: 'apps/harness/src/faults/main.ts',
  fuzz: 'apps/harness/src/fuzz/main.ts',
  mutations: 'apps/harness/src/mutations/main.ts',
  soak: 'apps/harness/src/soak/main.ts',
}

const [what, ...rest] = process.argv.slice(2)
// npm swallows the `--` that separates its own arguments, pnpm hands it on.
const args = rest[0] === '--' ? rest.slice(1) : rest

const program = PROGRAMS[what] ?? `scripts/${what}.ts`
if (what === undefined || !existsSync(join(ROOT, program))) {
  process.stderr.write(`usage: node scripts/run.mjs NAME [args…]; NAME is ${Object.keys(PROGRAMS).join(', ')} or a script's\n`)
  process.exit(2)
}

try {
  await ensureSetup()
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  process.stderr.write(`${error.message}\n`)
  process.exit(1)
}
exitLike(await run(process.execPath, [...sourceArguments(program), ...args], { cwd: process.env.INIT_CWD ?? process.cwd() }))
