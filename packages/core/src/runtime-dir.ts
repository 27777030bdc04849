import { existsSync, lstatSync, mkdtempSync, renameSync, rmSync, statSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { isAbsolute, join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { removeAtEnd } from '@ckpt/transport'
import { aliveName } from './alive-name.ts'
import { removeDeadDirectories } from './dead-directories.ts'

/** Longest path of a unix socket, in bytes: `sun_path` of unix(7) without its final zero. */
export const MAX_SOCKET_PATH = 107
/** Space for the longest name of a socket in the directory, `worker-<rank>-<epoch>.sock`, and the slash before it. */
const LONGEST_NAME = '/worker-65535-9999999.sock'.length
/** Not in the environment, but present on most machines. /dev/shm exists wherever ckpt runs. */
const FALLBACKS = ['/tmp', '/dev/shm', '/var/tmp']

/** A directory in which sockets may be created, and its name for errors. */
export interface RuntimeCandidate {
  /** A variable with its value, or only the path. */
  readonly name: string
  readonly path: string
}

/** Returns possible directories for this process's sockets, best first. */
export function runtimeCandidates(environment: NodeJS.ProcessEnv = process.env): RuntimeCandidate[] {
  const named = ['XDG_RUNTIME_DIR', 'TMPDIR', 'TMP', 'TEMP'].flatMap((variable) => {
    const path = environment[variable]
    return path === undefined ? [] : { name: `${variable}=${path}`, path }
  })
  const all = [...named, ...FALLBACKS.map((path) => ({ name: path, path }))]
  return all.filter(({ path }, index) => all.findIndex((other) => other.path === path) === index)
}

/**
 * A directory for this process's sockets that only the user may enter. It is removed by `close`, when the process exits without
 * having closed it, and when a worker thread that created it is terminated. The next process that starts in the same place
 * removes the directory of a killed process.
 */
export class RuntimeDir implements Disposable {
  readonly path: string
  /** Candidates that were tried before and are unusable, each with the reason. */
  readonly skipped: readonly string[]
  readonly #alive: Server
  readonly #forget: () => void
  readonly #onExit: () => void

  private constructor({ path, alive, forget, onExit }: Made, skipped: readonly string[]) {
    this.path = path
    this.skipped = skipped
    this.#alive = alive
    this.#forget = forget
    this.#onExit = onExit
  }

  /**
   * Creates the directory in the first usable candidate: the path is short enough for sockets, the file system gives it only to
   * this user, and a socket can be bound in it.
   *
   * @throws CkptError `UNSUPPORTED` that names every candidate and the reason.
   */
  static async create(candidates: readonly RuntimeCandidate[] = runtimeCandidates()): Promise<RuntimeDir> {
    const skipped: string[] = []
    for (const { name, path } of candidates) {
      const made = await tryToMake(path)
      if (typeof made === 'object') {
        await removeDeadDirectories(path)
        return new RuntimeDir(made, skipped)
      }
      skipped.push(`${name}: ${made}`)
    }
    throw new CkptError(
      'UNSUPPORTED',
      `no directory for this process's sockets: ${skipped.join('; ')}; set XDG_RUNTIME_DIR to a directory of at most ${longestRoot()} bytes that you may write to`,
      { fields: { field: 'XDG_RUNTIME_DIR', directories: skipped } },
    )
  }

  /** Returns false once it was removed by someone else. */
  isPresent(): boolean {
    return existsSync(this.path)
  }

  close(): void {
    process.off('exit', this.#onExit)
    this.#forget()
    this.#alive.close()
    this.#onExit()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

const template = () => `ckpt-${process.pid}-`

function longestRoot(): number {
  return MAX_SOCKET_PATH - LONGEST_NAME - `/${template()}XXXXXX`.length
}

/** A directory with its listening socket, and the function that removes it when this process or thread ends in any way. */
interface Made {
  readonly path: string
  readonly alive: Server
  readonly forget: () => void
  readonly onExit: () => void
}

/** Returns the created directory, or the reason why it cannot be created. */
async function tryToMake(root: string): Promise<Made | string> {
  if (root === '') return 'it is empty'
  if (!isAbsolute(root)) return 'it is not an absolute path'
  const bytes = Buffer.byteLength(root)
  if (bytes > longestRoot())
    return `its path has ${bytes} bytes: paths of sockets have at most ${MAX_SOCKET_PATH}, which leaves ${longestRoot()} for the directory`
  let giveBack: () => void = () => undefined
  try {
    const { uid, mode } = statSync(root)
    if ((mode & 0o022) !== 0 && (mode & 0o1000) === 0 && uid !== process.geteuid?.())
      return 'other users could replace files in it (mode ' + (mode & 0o7777).toString(8) + ')'
    const path = mkdtempSync(join(root, template()))
    // Set immediately, because this process may be interrupted before everything is created.
    const onExit = () => rmSync(path, { recursive: true, force: true })
    process.on('exit', onExit)
    const forget = removeAtEnd(path)
    giveBack = () => {
      process.off('exit', onExit)
      forget()
      onExit()
    }
    const made = lstatSync(path)
    if (made.uid !== process.geteuid?.() || (made.mode & 0o077) !== 0)
      throw new Error(`its file system gave a new directory to user ${made.uid} with mode ${(made.mode & 0o777).toString(8)}`)
    return { path, alive: await listenAlive(path), forget, onExit }
  } catch (error) {
    giveBack()
    return reason(error as NodeJS.ErrnoException)
  }
}

/** The socket gets its name only once it listens, so a socket under that name that refuses connections is dead. */
async function listenAlive(directory: string): Promise<Server> {
  const server = createServer((socket) => socket.destroy())
  const early = join(directory, 'new.sock')
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(early, resolve)
  })
  server.unref()
  const name = aliveName()
  if (name !== undefined) renameSync(early, join(directory, name))
  return server
}

function reason({ code, message }: NodeJS.ErrnoException): string {
  const known: Record<string, string> = {
    ENOENT: 'it does not exist',
    ENOTDIR: 'it is not a directory',
    EACCES: 'this user may not write to it',
    EPERM: 'this user may not write to it',
    EROFS: 'it is read-only',
    ENOSPC: 'it is full',
    EDQUOT: 'the quota of this user is exhausted',
    ELOOP: 'it is a broken symbolic link',
  }
  const text = code === undefined ? undefined : known[code]
  return text === undefined ? message : `${text} (${code})`
}
