import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

/** The repository's root directory. */
export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

/** The package manager's version: pnpm 11 needs a newer Node than the one supported here. */
export const PNPM_VERSION = '10.34.9'

/**
 * Arguments with which Node runs one of the repository's programs from the sources themselves, so that no stale build can run.
 * @param {string} program relative to the root
 */
export function sourceArguments(program) {
  const tsx = pathToFileURL(createRequire(join(ROOT, 'package.json')).resolve('tsx')).href
  return ['--import', tsx, '--conditions=@ckpt/source', join(ROOT, program)]
}
