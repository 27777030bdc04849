import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { basename, dirname } from 'node:path'

const TIMEOUT_MS = 10 * 60_000

/**
 * Packs a directory into one archive beside it, under xz or, where that is missing, gzip. The same files make the same archive.
 * @param name top directory in the archive, and its file's name
 * @param time of all files, in seconds since 1970
 * @returns the archive's path
 */
export function archive(directory: string, name: string, time: number): string {
  const xz = spawnSync('xz', ['--version']).status === 0
  const file = `${dirname(directory)}/${name}.tar.${xz ? 'xz' : 'gz'}`
  const { status, stderr, error } = spawnSync(
    'tar',
    [
      ...['--create', xz ? '--xz' : '--gzip', '--file', file],
      ...['--sort=name', `--mtime=@${time}`, '--owner=0', '--group=0', '--numeric-owner', '--format=gnu'],
      ...['--exclude=__pycache__', `--transform=s,^${basename(directory)},${name},`],
      ...['--directory', dirname(directory), basename(directory)],
    ],
    { encoding: 'utf8', timeout: TIMEOUT_MS },
  )
  if (status === 0) return file
  rmSync(file, { force: true })
  throw new Error(`tar failed with exit code ${status}: ${error?.message ?? stderr.trim()}`)
}
