import fs from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { CkptError, identityChange, identityOf, type FileIdentity, type ReadableFile } from '@ckpt/contract'
import { unreadable } from './malformed.ts'

/** Opens a path for reading, without following links that it must not follow, and resolves to a descriptor. */
export type FileOpener = (path: string) => Promise<number>

const openDescriptor = promisify(fs.open)
const closeDescriptor = promisify(fs.close)
const readDescriptor = promisify(fs.read)
const fstat = promisify(fs.fstat)

/** Times of changes are as exact as the kernel's tick, which is 10 ms at most. */
const TICK_MS = 20
/** Some file systems keep whole seconds (or two of them). */
const COARSE_TICK_MS = 2100
const NS_PER_S = 1_000_000_000n
const NS_PER_MS = 1_000_000n

/** Opens a file by its path. A pipe without a writer is also opened, but never waited for. */
export const openByPath: FileOpener = (path) => openDescriptor(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)

/** Returns the error for a file that changed since it was opened. The same call may succeed when repeated. */
export function changed(file: string, change: string, cause?: unknown): CkptError {
  return new CkptError(
    'CHECKPOINT_CHANGED',
    `${file}: the file changed while the checkpoint was read (${change}); nothing of it was kept: try again once its writer is done`,
    { fields: { file }, ...(cause !== undefined && { cause }) },
  )
}

/**
 * A regular file with its identity when it was opened. The descriptor may be closed early, so that thousands of files need no
 * descriptor each; reading then opens the file again, which must be unchanged.
 */
export class OpenedFile implements ReadableFile {
  readonly path: string
  readonly identity: FileIdentity
  readonly #opener: FileOpener
  #descriptor: number | undefined

  private constructor(path: string, identity: FileIdentity, opener: FileOpener, descriptor: number) {
    this.path = path
    this.identity = identity
    this.#opener = opener
    this.#descriptor = descriptor
  }

  /**
   * Opens a regular file. One that changed just before is checked again a moment later: a change within one tick of the
   * kernel's clock would leave no trace.
   *
   * @throws CkptError `CHECKPOINT_UNREADABLE` with the system's errno, `CHECKPOINT_CHANGED` for a file that is being written;
   * both name it.
   */
  static async open(path: string, opener: FileOpener = openByPath): Promise<OpenedFile> {
    let descriptor: number | undefined
    try {
      descriptor = await opener(path)
      const identity = await settled(path, descriptor)
      return new OpenedFile(path, identity, opener, descriptor)
    } catch (error) {
      if (descriptor !== undefined) await closeDescriptor(descriptor)
      throw CkptError.is(error) ? error : unreadable(path, error)
    }
  }

  /** Open descriptor; undefined once it was closed. */
  get descriptor(): number | undefined {
    return this.#descriptor
  }

  /** Size in bytes when it was opened. */
  get bytes(): number {
    return Number(this.identity.bytes)
  }

  /** Fills `buffer` from index `at` with the file's bytes from the same offset; shorter if the file ends before. */
  async read(buffer: Buffer, at: number): Promise<Buffer> {
    const descriptor = this.#descriptor
    if (descriptor === undefined) throw new CkptError('INVALID_STATE', `${this.path}: the file is closed`)
    let filled = at
    while (filled < buffer.length) {
      const { bytesRead } = await readDescriptor(descriptor, buffer, filled, buffer.length - filled, filled)
      if (bytesRead === 0) break
      filled += bytesRead
    }
    return buffer.subarray(0, filled)
  }

  /**
   * Checks that the open file is unchanged since it was opened.
   *
   * @throws CkptError `CHECKPOINT_CHANGED` naming the file, with `cause` if the change made something else fail.
   */
  async checkUnchanged(cause?: unknown): Promise<void> {
    const descriptor = this.#descriptor
    if (descriptor === undefined) return
    const change = identityChange(this.identity, await identify(this.path, descriptor))
    if (change !== undefined) throw changed(this.path, change, cause)
  }

  /**
   * Checks that the path still leads to the unchanged file, with links followed again.
   *
   * @throws CkptError `CHECKPOINT_CHANGED` naming the file.
   */
  async verify(): Promise<void> {
    let descriptor: number | undefined
    try {
      descriptor = await this.#opener(this.path)
      const change = identityChange(this.identity, await identify(this.path, descriptor))
      if (change !== undefined) throw changed(this.path, change)
    } catch (error) {
      if (CkptError.is(error, 'CHECKPOINT_CHANGED')) throw error
      if (isShortage(error)) throw CkptError.is(error) ? error : unreadable(this.path, error)
      throw changed(this.path, error instanceof Error ? error.message : String(error), error)
    } finally {
      if (descriptor !== undefined) await closeDescriptor(descriptor)
    }
  }

  /** Closes the descriptor; calling it again does nothing. */
  async close(): Promise<void> {
    const descriptor = this.#descriptor
    this.#descriptor = undefined
    if (descriptor !== undefined) await closeDescriptor(descriptor)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

const ENFILE = 23
const EMFILE = 24

/** Returns true for an error that reports that the process, or the system, has no descriptor left. */
export function isShortage(error: unknown): boolean {
  const errno = CkptError.is(error) ? error.fields.errno : Math.abs((error as NodeJS.ErrnoException).errno ?? 0)
  return errno === EMFILE || errno === ENFILE
}

/** Returns the identity of an open file. @throws CkptError `CHECKPOINT_UNREADABLE` for anything but a regular file. */
async function identify(path: string, descriptor: number): Promise<FileIdentity> {
  const stats = await fstat(descriptor, { bigint: true })
  if (stats.isFile()) return identityOf(stats)
  throw new CkptError('CHECKPOINT_UNREADABLE', `${path}: not a regular file`, { fields: { file: path } })
}

/** Returns an identity of an open file that no later change can share. */
async function settled(path: string, descriptor: number): Promise<FileIdentity> {
  const identity = await identify(path, descriptor)
  const tick = identity.changedNs % NS_PER_S === 0n ? COARSE_TICK_MS : TICK_MS
  // File times use the wall clock, and so does this; a clock that jumps costs a second check.
  // eslint-disable-next-line no-restricted-properties
  if (BigInt(Date.now()) * NS_PER_MS - identity.changedNs > BigInt(tick) * NS_PER_MS) return identity
  await sleep(tick)
  const later = await identify(path, descriptor)
  const change = identityChange(identity, later)
  if (change !== undefined) throw changed(path, change)
  return later
}
