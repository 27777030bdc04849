import { closeSync, constants, fstatSync, lstatSync, mkdirSync, openSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

import { makeSecretFile, unlessThere } from '@ckpt/contract'

import { invalid } from './errors.ts'

/** Does not depend on the environment, which may differ from rank to rank; the first that works is used. */
const rootsOf = (user: number) => ['/tmp', '/dev/shm', '/var/tmp', `/run/user/${user}`]
/** Characters of a whole secret. */
const SECRET_LENGTH = 44

/**
 * The secret of this machine's user, for ranks that meet on the loopback interface and were given none: other users reach that interface
 * too, but cannot read this. It is made by whoever needs it first, and stays. What others have put in its place is passed over: neither
 * followed nor used.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming `token`, and every directory with the reason why it cannot be used.
 */
export function userSecret(roots = rootsOf(process.geteuid!()), user = process.geteuid!()): string {
  const places = roots.map((root) => ({ root, directory: join(root, `ckpt-user-${user}`) }))
  // One that is there is what others use, wherever a new one would go.
  for (const { root, directory } of places) {
    if (unsafe(root, directory, user) !== undefined) continue
    const secret = read(join(directory, 'secret'), user)
    if (secret !== undefined) return secret
  }
  const reasons: string[] = []
  for (const { root, directory } of places) {
    try {
      unlessThere(() => mkdirSync(directory, { mode: 0o700 }))
      const why = unsafe(root, directory, user)
      if (why === undefined) return make(directory, user)
      reasons.push(`${directory} ${why}`)
    } catch (error) {
      reasons.push(`${directory}: ${(error as Error).message}`)
    }
  }
  throw invalid(
    'token',
    `ranks without a secret take their user's, but there is no place for it: ${reasons.join('; ')}. Set CKPT_TOKEN or CKPT_TOKEN_FILE`,
  )
}

/** Why others may have put the directory there, or may put a different one there; undefined where they cannot. */
function unsafe(root: string, directory: string, user: number): string | undefined {
  try {
    const parent = statSync(root)
    if ((parent.mode & 0o022) !== 0 && (parent.mode & 0o1000) === 0 && parent.uid !== user)
      return `lies where other users can replace it (mode ${(parent.mode & 0o7777).toString(8)} of ${root})`
    const found = lstatSync(directory)
    if (found.isSymbolicLink()) return `is a symbolic link of user ${found.uid}`
    if (!found.isDirectory()) return 'is not a directory'
    if (found.uid !== user) return `belongs to user ${found.uid}`
    if ((found.mode & 0o077) !== 0) return `has mode ${(found.mode & 0o777).toString(8)}, not 700`
    return undefined
  } catch (error) {
    return `cannot be used (${(error as NodeJS.ErrnoException).code})`
  }
}

/** The secret in a directory that is this user's alone; undefined where there is none. */
function read(path: string, user: number): string | undefined {
  let file: number | undefined
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    const { uid, mode, size } = fstatSync(file)
    const own = (mode & 0o170000) === 0o100000 && uid === user && (mode & 0o077) === 0
    return own && size === SECRET_LENGTH ? readFileSync(file, 'utf8') : undefined
  } catch {
    return undefined
  } finally {
    if (file !== undefined) closeSync(file)
  }
}

function make(directory: string, user: number): string {
  const path = join(directory, 'secret')
  makeSecretFile(directory, 'secret')
  const secret = read(path, user)
  if (secret === undefined) throw new Error(`${path} is not a file of mode 600 with a secret of this user: remove it`)
  return secret
}
