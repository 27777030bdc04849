import { defineConfig } from 'vitest/config'

// Workspace packages resolve to their sources by the "@ckpt/source" condition, so that a test never runs a stale build.
export default defineConfig({
  resolve: { conditions: ['@ckpt/source'] },
  ssr: { resolve: { conditions: ['@ckpt/source', 'node', 'import', 'default'] } },
  test: {
    include: ['packages/*/src/**/*.test.ts', 'native/*/test/**/*.test.ts', 'apps/*/src/**/*.test.ts', 'scripts/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    execArgv: ['--expose-gc'],
  },
})
