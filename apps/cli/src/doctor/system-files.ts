import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Files in which Linux describes itself. */
export interface SystemFiles {
  /** Text of a file, trimmed; undefined if it is missing or cannot be read. */
  text(path: string): string | undefined
  /** Names in a directory, sorted as numbers if they contain any; empty if it is missing. */
  list(path: string): string[]
}

/** Returns the machine's own files, or a copy of such a tree under `root`. */
export function systemFiles(root = '/'): SystemFiles {
  return {
    text: (path) => attempt(() => readFileSync(join(root, path), 'utf8').trim()),
    list: (path) =>
      attempt(() => readdirSync(join(root, path)).sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))) ?? [],
  }
}

function attempt<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch {
    return undefined
  }
}
