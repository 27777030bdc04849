import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from './process.mjs'
import { noResults, parseLines, parsePytest } from './results.mjs'
import { ROOT } from './root.mjs'

const VITEST_TIMEOUT_MS = 40 * 60_000
const SUITE_TIMEOUT_MS = 30 * 60_000

/** All vitest tests, live on the terminal. */
export async function unitTests() {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-test-'))
  const file = join(directory, 'results.json')
  try {
    const { code, signal } = await run(
      process.execPath,
      [
        join(ROOT, 'node_modules/vitest/vitest.mjs'),
        'run',
        '--reporter=default',
        `--reporter=${join(ROOT, 'scripts/lib/vitest-reporter.mjs')}`,
      ],
      { env: { ...process.env, CKPT_RESULTS: file }, timeoutMs: VITEST_TIMEOUT_MS },
    )
    if (!existsSync(file)) return failure(`vitest ended without results (${signal ?? `exit code ${code}`})`)
    const results = JSON.parse(readFileSync(file, 'utf8'))
    return code !== 0 && results.failed === 0 ? merge(results, failure(`vitest: exit code ${code}`)) : results
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** The native tests under every sanitizer. */
export async function nativeTests() {
  const script = join(ROOT, 'scripts/sanitizers.mjs')
  if (!existsSync(script)) return failure('scripts/sanitizers.mjs is missing')
  const { code, output } = await run(process.execPath, [script, 'all'], { tee: true, timeoutMs: SUITE_TIMEOUT_MS })
  const results = parseLines(output)
  if (results.passed + results.failed === 0) return failure(`sanitizers: no test ran (exit code ${code})`)
  return code !== 0 && results.failed === 0 ? merge(results, failure(`sanitizers: exit code ${code}`)) : results
}

/** Tests tagged rdma, in a VM with soft-RoCE. */
export async function rdmaTests() {
  const script = join(ROOT, 'scripts/rdma-tests.mjs')
  if (!existsSync(script)) return failure('scripts/rdma-tests.mjs is missing')
  const { code, output } = await run(process.execPath, [script], { tee: true, timeoutMs: SUITE_TIMEOUT_MS })
  const results = parseLines(output)
  if (results.passed + results.failed + results.skipped.length === 0) return failure(`rdma: no test ran (exit code ${code})`)
  return code !== 0 && results.failed === 0 ? merge(results, failure(`rdma: exit code ${code}`)) : results
}

/** The Python worker's tests, where there is a Python environment. */
export async function pythonTests() {
  const script = join(ROOT, 'scripts/python-checks.mjs')
  if (!existsSync(script)) return failure('scripts/python-checks.mjs is missing')
  const { code, output } = await run(process.execPath, [script, '--tests'], { tee: true, timeoutMs: SUITE_TIMEOUT_MS })
  const results = parsePytest(output)
  const { skipped } = parseLines(output)
  if (results === undefined && code === 0 && skipped.length > 0) return { ...noResults(), skipped }
  if (results === undefined) return failure(`Python tests ended without a summary (exit code ${code})`)
  return code !== 0 && results.failed === 0 ? merge(results, failure(`Python tests: exit code ${code}`)) : results
}

function failure(what) {
  return { ...noResults(), failed: 1, failures: [what] }
}

function merge(results, more) {
  results.failed += more.failed
  results.failures.push(...more.failures)
  return results
}
