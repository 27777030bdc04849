import { resolve } from 'node:path'

/** Resolves a path relative to the caller's directory, also when called through `npm run`. */
export function userPath(path: string): string {
  return resolve(process.env['INIT_CWD'] ?? process.cwd(), path)
}
