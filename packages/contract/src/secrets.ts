import { randomBytes } from 'node:crypto'
import {
  closeSync,
  constants,
  fstatSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  rmSync,
  type Stats,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { CkptError } from './errors.ts'

/** Minimum length of a secret in characters: shorter ones can be guessed. */
export const MIN_SECRET_LENGTH = 16
/** Maximum size of a secret's file in bytes. */
const MAX_FILE_BYTES = 4096

/**
 * Checks a secret whose field is named in errors.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the field for a secret that can be guessed.
 */
export function checkSecret(secret: string, field: string): string {
  if (secret.length >= MIN_SECRET_LENGTH) return secret
  const text = `${field}: ${secret.length} characters can be guessed; use at least ${MIN_SECRET_LENGTH} (openssl rand -base64 24 makes a good one)`
  throw new CkptError('INVALID_ARGUMENT', text, { fields: { field } })
}

/**
 * Reads a secret from a file that only its owner may read, who must be this process's user or root. A file of root may also be
 * readable by a group of this process, with a warning. The checks apply to the opened file. White space around the secret is
 * dropped.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the field and the file.
 */
export function readSecretFile(path: string, field: string): string {
  const refuse = (why: string, cause?: unknown) =>
    new CkptError('INVALID_ARGUMENT', `${field}: ${path} ${why}`, {
      fields: { field, file: path },
      ...(cause !== undefined && { cause }),
    })
  let file: number | undefined
  try {
    // Does not wait for the other end of a pipe.
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const stat = fstatSync(file)
    const user = process.geteuid!()
    if (!stat.isFile()) throw refuse('is not a file')
    if (stat.uid !== user && stat.uid !== 0) throw refuse(`belongs to user ${stat.uid}, not to this user (${user}) or root`)
    if (isReadByOwnGroup(stat)) {
      process.emitWarning(`${field}: ${path} can be read by group ${stat.gid}, as secrets of Kubernetes with an fsGroup can`, {
        code: 'GROUP_READS_SECRET',
      })
    } else if ((stat.mode & 0o077) !== 0) throw refuse('can be read by others; make it mode 0600')
    if (stat.size > MAX_FILE_BYTES) throw refuse(`holds ${stat.size} bytes, more than the ${MAX_FILE_BYTES} of a secret`)
    const bytes = Buffer.alloc(MAX_FILE_BYTES)
    const text = bytes.toString('utf8', 0, readSync(file, bytes, 0, MAX_FILE_BYTES, 0)).trim()
    if (text === '') throw refuse('is empty')
    if (text.length < MIN_SECRET_LENGTH)
      throw refuse(`holds ${text.length} characters, which can be guessed; use at least ${MIN_SECRET_LENGTH}`)
    return text
  } catch (error) {
    if (CkptError.is(error)) throw error
    throw refuse(`cannot be read: ${(error as Error).message}`, error)
  } finally {
    if (file !== undefined) closeSync(file)
  }
}

/**
 * True for a file of root that only a group of this process may read besides: Kubernetes makes files of secrets so for pods with
 * an fsGroup, and the pod cannot change them.
 */
function isReadByOwnGroup({ uid, gid, mode }: Stats): boolean {
  const groups = [process.getegid!(), ...process.getgroups!()]
  return uid === 0 && gid !== 0 && (mode & 0o077) === 0o040 && groups.includes(gid)
}

/**
 * Returns the file of a secret that all processes of this machine's user can read, and nobody else: it is in a directory that
 * only the user may enter. The first process that needs the secret creates it, and it stays.
 *
 * @param name - of the file.
 * @param field - that errors name, and that a caller can set instead.
 * @throws CkptError `INVALID_ARGUMENT` if others could have put it there, or if it can neither be read nor created.
 */
export function userSecretFile(name: string, field: string, directory = userDirectory()): string {
  const refuse = (why: string, cause?: unknown) =>
    new CkptError('INVALID_ARGUMENT', `${field}: not set, and ${directory} ${why}: set ${field}`, {
      fields: { field, file: directory },
      ...(cause !== undefined && { cause }),
    })
  try {
    unlessThere(() => mkdirSync(directory, { mode: 0o700 }))
    const stat = lstatSync(directory)
    const user = process.geteuid!()
    if (!stat.isDirectory() || stat.uid !== user || (stat.mode & 0o077) !== 0) {
      throw refuse(`is not a directory of mode 0700 of this user (${user})`)
    }
    const path = join(directory, name)
    if (lstatSync(path, { throwIfNoEntry: false }) === undefined) makeSecretFile(directory, name)
    return readSecretFile(path, field)
  } catch (error) {
    if (CkptError.is(error)) throw error
    throw refuse(`cannot hold a secret: ${(error as Error).message}`, error)
  }
}

/** Does not depend on the environment, which may differ between processes. */
function userDirectory(): string {
  return `/tmp/ckpt-user-${process.geteuid!()}`
}

/**
 * Creates a file of mode 0600 with a new secret, in a directory that only the user may enter. An existing one is left as it is,
 * so several processes that do this at the same moment all find the same secret.
 */
export function makeSecretFile(directory: string, name: string): void {
  // The file is complete before it gets its name, because others may read it at once.
  const draft = join(directory, randomBytes(8).toString('hex'))
  try {
    writeFileSync(draft, randomBytes(32).toString('base64'), { mode: 0o600, flag: 'wx' })
    unlessThere(() => linkSync(draft, join(directory, name)))
  } finally {
    rmSync(draft, { force: true })
  }
}

/** Creates something unless it exists. */
export function unlessThere(create: () => void): void {
  try {
    create()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}
