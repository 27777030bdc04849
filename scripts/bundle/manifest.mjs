import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { probe } from '../lib/process.mjs'
import { ROOT } from '../lib/root.mjs'

/**
 * Every file below a directory, with its size, hash and, where it is to be executable, that.
 * @returns {Record<string, { bytes: number, sha256: string, executable?: true }>} by path
 */
export function fileTable(directory) {
  const names = readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(directory.length + 1))
    .sort()
  return Object.fromEntries(
    names.map((name) => {
      const path = join(directory, name)
      const sha256 = createHash('sha256').update(readFileSync(path)).digest('hex')
      const { size: bytes, mode } = statSync(path)
      return [name, { bytes, sha256, ...((mode & 0o100) !== 0 && { executable: true }) }]
    }),
  )
}

/** The commit the sources are at and its time (seconds since 1970), as far as git tells. */
export function commit() {
  const git = (...args) => probe('git', ['-C', ROOT, ...args])
  return {
    commit: git('rev-parse', 'HEAD') ?? null,
    time: Number(git('log', '-1', '--format=%ct') ?? 0),
    modified: (git('status', '--porcelain') ?? '') !== '',
  }
}
