import { rmSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { probe, run } from '../lib/process.mjs'

const TIMEOUT_MS = 10 * 60_000

/**
 * Packs a directory into one archive beside it, under xz or, where that is missing, gzip. The same files make the same archive.
 * @param {{ name: string, time: number }} options `name`: top directory in the archive and its file's name; `time`: of all files
 * @returns {Promise<string>} the archive's path
 */
export async function archive(directory, { name, time }) {
  const xz = probe('xz', ['--version']) !== undefined
  const file = `${dirname(directory)}/${name}.tar.${xz ? 'xz' : 'gz'}`
  const { code, output } = await run(
    'tar',
    [
      ...['--create', xz ? '--xz' : '--gzip', '--file', file],
      ...['--sort=name', `--mtime=@${time}`, '--owner=0', '--group=0', '--numeric-owner', '--format=gnu'],
      ...['--exclude=__pycache__', `--transform=s,^${basename(directory)},${name},`],
      ...['--directory', dirname(directory), basename(directory)],
    ],
    { capture: true, timeoutMs: TIMEOUT_MS },
  )
  if (code === 0) return file
  rmSync(file, { force: true })
  throw new Error(`tar failed with exit code ${code}: ${output.trim()}`)
}
