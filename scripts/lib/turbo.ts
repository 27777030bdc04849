import { join } from 'node:path'
import { packageManagerEnv } from './pnpm.mjs'
import { run } from './process.mjs'
import { ROOT } from './root.mjs'

const TIMEOUT_MS = 30 * 60_000

/** Runs tasks with turbo; what it printed. */
export function turbo(args: readonly string[]): ReturnType<typeof run> {
  const { PATH, ...env } = packageManagerEnv()
  return run(process.execPath, [join(ROOT, 'node_modules/turbo/bin/turbo'), 'run', ...args], {
    capture: true,
    timeoutMs: TIMEOUT_MS,
    env: { ...env, TURBO_TELEMETRY_DISABLED: '1', PATH: `${join(ROOT, 'node_modules/.bin')}:${PATH}` },
  })
}

/** Builds every package. */
export function turboBuild(): ReturnType<typeof run> {
  return turbo(['build', '--output-logs=errors-only'])
}
