#!/usr/bin/env node
// Tests of real inference engines: makes the environment, runs them, and says what could not run and why.
// node scripts/test-engine.mjs [--results FILE] [arguments of vitest…]
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { exitLike, run } from './lib/process.mjs'
import { countLine } from './lib/results.mjs'
import { ROOT } from './lib/root.mjs'
import { ensureSetup, SetupError } from './setup.mjs'

const given = process.argv.slice(2).filter((argument) => argument !== '--')
const at = given.indexOf('--results')
const [, resultsFile] = at === -1 ? [] : given.splice(at, 2)

try {
  await ensureSetup()
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  process.stderr.write(`${error.message}\n`)
  process.exit(1)
}

const setup = await run(process.execPath, [join(ROOT, 'scripts/setup-vllm.mjs')], { tee: true })
if (setup.signal !== null) exitLike(setup)
const why = setup.code === 0 ? undefined : (/^SKIP vLLM: (.*)$/m.exec(setup.output)?.[1] ?? 'setting it up failed')

const directory = mkdtempSync(join(tmpdir(), 'ckpt-test-'))
const file = join(directory, 'results.json')
const { code, signal } = await run(
  process.execPath,
  [
    join(ROOT, 'node_modules/vitest/vitest.mjs'),
    ...['run', '--project', 'engine', '--reporter=verbose'],
    `--reporter=${join(ROOT, 'scripts/lib/vitest-reporter.mjs')}`,
    ...given,
  ],
  { env: { ...process.env, CKPT_ENGINE_TESTS: '1', CKPT_RESULTS: file, ...(why !== undefined && { CKPT_VLLM_MISSING: why }) } },
)
const results = existsSync(file)
  ? JSON.parse(readFileSync(file, 'utf8'))
  : { passed: 0, failed: 1, skipped: [], failures: ['vitest'] }
rmSync(directory, { recursive: true, force: true })
if (code !== 0 && results.failed === 0)
  Object.assign(results, { failed: 1, failures: [`vitest: ${signal ?? `exit code ${code}`}`] })
if (why !== undefined) process.stdout.write(`\nNot run on this machine: tests of real vLLM: ${why}\n`)
if (resultsFile !== undefined) writeFileSync(resultsFile, JSON.stringify(results))
process.stdout.write(`${countLine(results)}\n`)
process.exitCode = results.failed > 0 ? 1 : 0
