import { randomBytes } from 'node:crypto'
import { linkSync, lstatSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { invalid } from './errors.ts'

/** Does not hang on the environment, which may differ from rank to rank. */
const directoryOf = (user: number) => `/tmp/ckpt-user-${user}`

/**
 * The secret of this machine's user, for ranks that meet on the loopback interface and were given none: other users reach that interface
 * too, but cannot read this. It is made by whoever needs it first, and stays.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming `token` where others could have put it there.
 */
export function userSecret(directory = directoryOf(process.geteuid!())): string {
  unlessThere(() => mkdirSync(directory, { mode: 0o700 }))
  const stat = lstatSync(directory)
  if (!stat.isDirectory() || stat.uid !== process.geteuid!() || (stat.mode & 0o077) !== 0) {
    throw invalid(
      'token',
      `ranks without a secret take their user's, but ${directory}, where it lies, is not a directory of mode 0700 of this user: set CKPT_TOKEN, or remove it`,
    )
  }
  const path = join(directory, 'secret')
  for (;;) {
    try {
      return readFileSync(path, 'utf8')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
    // Whole before it has its name: others may read it at once.
    const draft = join(directory, randomBytes(8).toString('hex'))
    try {
      writeFileSync(draft, randomBytes(32).toString('base64'), { mode: 0o600, flag: 'wx' })
      unlessThere(() => linkSync(draft, path))
    } finally {
      rmSync(draft, { force: true })
    }
  }
}

function unlessThere(make: () => void): void {
  try {
    make()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}
