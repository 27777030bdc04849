import fs from 'node:fs'
import { readlink, realpath } from 'node:fs/promises'
import { isAbsolute, relative, resolve, sep } from 'node:path'
import { promisify } from 'node:util'
import { CkptError, type Host } from '@ckpt/contract'
import type { FileOpener } from '@ckpt/safetensors'

const openDescriptor = promisify(fs.open)
const closeDescriptor = promisify(fs.close)
/** Missing in Node's constants: flag for a descriptor that only names a place. */
const O_PATH = 0o10000000

/**
 * Root directory that must contain all files of a registration. It is held open, so it stays the same directory, and files are
 * opened below it. Their links are resolved and checked first; then the resolved place is opened without following links. If a
 * link or a directory is replaced in between, opening fails.
 */
export class RootDirectory implements AsyncDisposable {
  readonly #host: Host
  readonly #given: string
  readonly #descriptor: number

  private constructor(host: Host, given: string, descriptor: number) {
    this.#host = host
    this.#given = given
    this.#descriptor = descriptor
  }

  /** @throws CkptError `CHECKPOINT_UNREADABLE` naming the directory, `UNSUPPORTED` if the host cannot open files below one. */
  static async open(host: Host, path: string): Promise<RootDirectory> {
    if (host.openBeneath === undefined) {
      throw new CkptError('UNSUPPORTED', `${path}: this host cannot restrict files to a root`, {
        fields: { file: path, field: 'root' },
      })
    }
    try {
      return new RootDirectory(host, resolve(path), await openDescriptor(path, O_PATH | fs.constants.O_DIRECTORY))
    } catch (error) {
      throw unreadable(path, error)
    }
  }

  /**
   * Resolves a path, from the root if it is relative; it need not exist. @throws CkptError `INVALID_ARGUMENT` if that is
   * outside.
   */
  async place(path: string): Promise<string> {
    if (path.includes('\0')) throw refused(path, 'contains a NUL character')
    const base = await this.#base()
    const wanted = resolve(base, path)
    // Before any lookup, so that an answer does not reveal what exists outside.
    if (isInside(base, wanted) || isInside(this.#given, wanted)) return wanted
    throw refused(path, 'is outside the checkpoint root')
  }

  /** Opens a file below the root. */
  readonly opener: FileOpener = async (path) => {
    const base = await this.#base()
    const found = await realpath(await this.place(path)).catch((error: unknown) => {
      throw unreadable(path, error)
    })
    if (!isInside(base, found)) throw refused(path, 'is outside the checkpoint root')
    try {
      return await this.#host.openBeneath!(this.#descriptor, relative(base, found))
    } catch (error) {
      const { code, message, fields } = CkptError.from(error, 'CHECKPOINT_UNREADABLE')
      throw new CkptError(code, `${path}: ${message}`, { fields: { ...fields, file: path }, cause: error })
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await closeDescriptor(this.#descriptor)
  }

  /** Current path of the directory; it may have been renamed since it was opened. */
  async #base(): Promise<string> {
    return readlink(`/proc/self/fd/${this.#descriptor}`)
  }
}

function isInside(root: string, path: string): boolean {
  const from = relative(root, path)
  return from !== '' && from !== '..' && !from.startsWith(`..${sep}`) && !isAbsolute(from)
}

function unreadable(file: string, error: unknown): CkptError {
  const errno = (error as NodeJS.ErrnoException).errno
  return CkptError.from(error, 'CHECKPOINT_UNREADABLE', `cannot read ${file}`, {
    file,
    ...(errno !== undefined && { errno: Math.abs(errno) }),
  })
}

function refused(file: string, why: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', `${file} ${why}`, { fields: { file, field: 'files' } })
}
