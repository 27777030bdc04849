import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The repository's root directory. */
export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

/** The package manager's version: pnpm 11 needs a newer Node than the one supported here. */
export const PNPM_VERSION = '10.34.9'
