import { closeSync, constants, fstatSync, lstatSync, mkdirSync, openSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

import { makeSecretFile, unlessThere } from '@ckpt/contract'

import { invalid } from './errors.ts'

/** Independent of the environment, which may differ between ranks; the first that works is used. */
const rootsOf = (user: number) => ['/tmp', '/dev/shm', '/var/tmp', `/run/user/${user}`]
/** Length of a whole secret in characters. */
const SECRET_LENGTH = 44

/**
 * Returns the secret of this machine's user, for ranks that meet on the loopback interface without a given one: other users
 * reach that interface too, but cannot read the secret. The first process that needs it creates it, and it stays. Anything that
 * others have put in its place is neither followed nor used.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming `token`, and every directory with the reason why it cannot be used.
 */
export function userSecret(roots = rootsOf(process.geteuid!()), user = process.geteuid!()): string {
  const places = roots.map((root) => ({ root, directory: join(root, `ckpt-user-${user}`) }))
  // Other processes use an existing one, wherever a new one would go.
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
    `ranks without a secret use their user's, but no directory can hold it: ${reasons.join('; ')}. Set CKPT_TOKEN or CKPT_TOKEN_FILE`,
  )
}

/** Returns the reason why others may have created the directory, or may replace it; undefined if they cannot. */
function unsafe(root: string, directory: string, user: number): string | undefined {
  try {
    const parent = statSync(root)
    if ((parent.mode & 0o022) !== 0 && (parent.mode & 0o1000) === 0 && parent.uid !== user)
      return `can be replaced by other users (mode ${(parent.mode & 0o7777).toString(8)} of ${root})`
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

/** Reads the secret in a directory that belongs only to this user; undefined if there is none. */
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
