import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { defineConfig } from 'vitest/config'
import { JUnitWithReasons } from './scripts/lib/junit-reporter.ts'

// Workspace packages resolve to their sources by the "@ckpt/source" condition, so that a test never runs a stale build.
const source = {
  resolve: { conditions: ['@ckpt/source'] },
  ssr: { resolve: { conditions: ['@ckpt/source', 'node', 'import', 'default'] } },
}
const common = {
  pool: 'forks' as const,
  testTimeout: 60_000,
  hookTimeout: 60_000,
  execArgv: ['--expose-gc'],
  env: { CKPT_UCX_LIBRARY: process.env['CKPT_UCX_LIBRARY'] ?? newestUcx() ?? '' },
}

/** The directory of the UCX in the Python environment, if there is one: it is newer than the system's. */
function newestUcx(): string | undefined {
  const lib = join(import.meta.dirname, '.venv/lib')
  try {
    const pythons = readdirSync(lib).filter((name) => name.startsWith('python'))
    return pythons.map((name) => join(lib, name, 'site-packages/libucx/lib')).find((folder) => readdirSync(folder).length > 0)
  } catch {
    return undefined
  }
}

/** Where `npm test` wants the results as JUnit. */
const junit = process.env['CKPT_JUNIT']

export default defineConfig({
  test: {
    maxWorkers: 2,
    reporters:
      junit === undefined ? ['default'] : ['default', new JUnitWithReasons({ outputFile: junit, includeConsoleOutput: false })],
    projects: [
      {
        ...source,
        test: {
          ...common,
          name: 'unit',
          include: [
            'packages/*/src/**/*.test.ts',
            'native/*/test/**/*.test.ts',
            'apps/{bench,cli}/src/**/*.test.ts',
            'scripts/**/*.test.ts',
          ],
          sequence: { groupOrder: 0 },
        },
      },
      {
        ...source,
        test: {
          ...common,
          name: 'cluster',
          globalSetup: 'apps/harness/src/testing/test-programs.ts',
          // Each of these starts several processes and watches what they leave: one file at a time.
          include: ['apps/harness/src/**/*.test.ts'],
          exclude: ['apps/harness/src/vllm/*.engine.test.ts'],
          fileParallelism: false,
          testTimeout: 180_000,
          sequence: { groupOrder: 1 },
        },
      },
      {
        ...source,
        test: {
          ...common,
          name: 'engine',
          // Real inference engines, which take minutes: `npm run test:engine`, or CKPT_ENGINE_TESTS=1.
          include: process.env['CKPT_ENGINE_TESTS'] === '1' ? ['apps/harness/src/vllm/*.engine.test.ts'] : [],
          fileParallelism: false,
          // Deadlines that mean a hang: a server that starts beside other work takes minutes.
          testTimeout: 1_800_000,
          hookTimeout: 1_800_000,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
})
