#!/usr/bin/env node
// All checks that are not tests. node scripts/check.mjs [--only NAME,…] [--list] [--results FILE]
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { changesetProblems } from './lib/changesets.mjs'
import { hygieneProblems } from './lib/hygiene.mjs'
import { run } from './lib/process.mjs'
import { pythonLockProblems } from './lib/python-locks.mjs'
import { countLine, noResults, parseLines } from './lib/results.mjs'
import { ROOT } from './lib/root.mjs'
import { ensureSetup, SetupError } from './setup.mjs'

const TIMEOUT_MS = 10 * 60_000
const bin = (path) => [process.execPath, join(ROOT, 'node_modules', path)]
const script = (name) => [process.execPath, join(ROOT, 'scripts', name)]

/** Each check: a command, or a function that lists problems. One that ends with exit code `skipCode`, or
 * well but with a line `SKIP what: reason`, could not run here. */
const CHECKS = {
  typecheck: { command: [...bin('typescript/bin/tsc'), '--noEmit', '-p', 'tsconfig.json'] },
  lint: { command: [...bin('eslint/bin/eslint.js'), '.', '--max-warnings', '0'] },
  format: { command: [...bin('prettier/bin/prettier.cjs'), '--check', '--log-level', 'warn', '.'] },
  'format of C++': { command: script('format-native.mjs'), skipCode: 3 },
  python: { command: [...script('python-checks.mjs'), '--checks'] },
  arrows: {
    command: [
      ...bin('dependency-cruiser/bin/dependency-cruise.mjs'),
      '--config',
      '.dependency-cruiser.cjs',
      ...['packages', 'apps', 'native'],
    ],
  },
  'API reports': { command: script('api-report.mjs') },
  build: { command: script('build-check.mjs') },
  release: { command: [...script('release-check.mjs'), '--only', 'changesets,pack,lint,install,readme,sbom'] },
  'API pages': { command: [...script('api-docs.mjs'), '--check'] },
  changesets: { problems: changesetProblems },
  hygiene: { problems: hygieneProblems },
  'Python locks': { problems: pythonLockProblems },
}

const { values } = parseArgs({
  options: { only: { type: 'string' }, list: { type: 'boolean' }, results: { type: 'string' } },
})
if (values.list) {
  process.stdout.write(`${Object.keys(CHECKS).join('\n')}\n`)
  process.exit(0)
}
const chosen = values.only?.split(',') ?? Object.keys(CHECKS)
for (const name of chosen.filter((name) => !(name in CHECKS))) {
  process.stderr.write(`there is no check "${name}"; --list names them\n`)
  process.exit(2)
}

try {
  await ensureSetup()
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  process.stderr.write(`${error.message}\n`)
  process.exit(1)
}

const total = noResults()
for (const name of chosen) {
  const start = performance.now()
  const { state, output } = await perform(CHECKS[name])
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  process.stdout.write(`${state} ${name} (${seconds} s)${state === 'SKIP' ? `: ${output.trim()}` : ''}\n`)
  if (state === 'PASS') total.passed += 1
  if (state === 'SKIP') total.skipped.push({ name: `check ${name}`, reason: output.trim() })
  if (state === 'FAIL') {
    total.failed += 1
    total.failures.push(`check ${name}`)
    process.stdout.write(`${output.trimEnd().replace(/^/gm, '     ')}\n`)
  }
}
if (values.results !== undefined) writeFileSync(values.results, JSON.stringify(total))
process.stdout.write(`${countLine(total)}\n`)
process.exitCode = total.failed > 0 ? 1 : 0

async function perform({ command, problems, skipCode }) {
  if (problems !== undefined) {
    const found = problems()
    return { state: found.length === 0 ? 'PASS' : 'FAIL', output: found.join('\n') }
  }
  const file = command[1]
  if (!existsSync(file)) return { state: 'FAIL', output: `${file} is missing` }
  const { code, output } = await run(command[0], command.slice(1), { capture: true, timeoutMs: TIMEOUT_MS })
  const skip = parseLines(output).skipped[0]
  if (code === 0) return skip === undefined ? { state: 'PASS', output } : { state: 'SKIP', output: skip.reason ?? skip.name }
  return { state: code === skipCode ? 'SKIP' : 'FAIL', output }
}
