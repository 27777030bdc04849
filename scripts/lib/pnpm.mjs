import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { probe, run } from './process.mjs'
import { PNPM_VERSION, ROOT } from './root.mjs'

const KEPT_SETTINGS =
  /^npm_config_(registry|.*:registry|cache|userconfig|https?_proxy|proxy|noproxy|cafile|ca|strict_ssl|_auth.*|.*:_auth.*)$/i

/**
 * The environment for pnpm: `npm run` hands all of npm's settings down as npm_config_…, which pnpm would take for its own.
 * @returns {NodeJS.ProcessEnv}
 */
export function packageManagerEnv(env = process.env) {
  const clean = Object.entries(env).filter(([name]) => !/^npm_/i.test(name) || KEPT_SETTINGS.test(name))
  return { ...Object.fromEntries(clean), COREPACK_ENABLE_DOWNLOAD_PROMPT: '0', npm_config_update_notifier: 'false' }
}

/** How to call pnpm: the one in node_modules, a matching one on the PATH, or through npx. */
function pnpmCommand(env) {
  const own = join(ROOT, 'node_modules/pnpm')
  if (
    existsSync(join(own, 'package.json')) &&
    JSON.parse(readFileSync(join(own, 'package.json'), 'utf8')).version === PNPM_VERSION
  ) {
    return [process.execPath, join(own, 'bin/pnpm.cjs')]
  }
  if (probe('pnpm', ['--version'], { env, cwd: ROOT }) === PNPM_VERSION) return ['pnpm']
  return ['npx', '--yes', `pnpm@${PNPM_VERSION}`]
}

/**
 * Runs pnpm in the root directory.
 * @param {readonly string[]} args
 * @param {import('./process.mjs').RunOptions} [options]
 */
export function pnpm(args, options = {}) {
  const env = packageManagerEnv(options.env)
  const [command, ...before] = pnpmCommand(env)
  return run(command, [...before, ...args], { ...options, env })
}
