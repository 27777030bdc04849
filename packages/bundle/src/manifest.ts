import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './root.ts'

/** A file of a bundle. */
export interface FileEntry {
  readonly bytes: number
  readonly sha256: string
  readonly executable?: true
}

/** Every file below a directory, by its path. */
export function fileTable(directory: string): Record<string, FileEntry> {
  const names = readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(directory.length + 1))
    .sort()
  return Object.fromEntries(
    names.map((name): [string, FileEntry] => {
      const path = join(directory, name)
      const sha256 = createHash('sha256').update(readFileSync(path)).digest('hex')
      const { size: bytes, mode } = statSync(path)
      return [name, { bytes, sha256, ...((mode & 0o100) !== 0 && { executable: true }) }]
    }),
  )
}

/** The commit the sources are at and its time (seconds since 1970), as far as git tells. */
export function commit(): { commit: string | null; time: number; modified: boolean } {
  const git = (...args: string[]) => {
    const { status, stdout } = spawnSync('git', ['-C', ROOT, ...args], { encoding: 'utf8', maxBuffer: 64 << 20 })
    return status === 0 ? stdout.trim() : undefined
  }
  return {
    commit: git('rev-parse', 'HEAD') ?? null,
    time: Number(git('log', '-1', '--format=%ct') ?? 0),
    modified: (git('status', '--porcelain') ?? '') !== '',
  }
}
