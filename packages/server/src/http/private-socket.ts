import { chmodSync, lstatSync, mkdtempSync, renameSync, rmdirSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { removeAtEnd } from '@ckpt/transport'
import { MAX_SOCKET_PATH } from '@ckpt/core'

/**
 * Lets `listen` bind a unix socket that appears at `path` only when it is private to the user (mode 0600): it is bound in a
 * directory that nobody else may enter, and then moved. A umask would do the same, but worker threads have none.
 *
 * @returns a function that removes the socket, if it is still this one.
 * @throws CkptError `INVALID_ARGUMENT` naming the path, if it is too long or a server listens there.
 */
export async function listenPrivately(path: string, listen: (early: string) => Promise<unknown>): Promise<() => void> {
  checkLength(path)
  await removeStale(path)
  let directory: string
  try {
    directory = mkdtempSync(join(dirname(path), '.'))
  } catch (error) {
    throw CkptError.from(error, 'INVALID_ARGUMENT', `cannot create a socket at ${path}`, { field: 'socketPath', file: path })
  }
  try {
    const early = join(directory, 's')
    checkLength(early)
    await listen(early)
    chmodSync(early, 0o600)
    renameSync(early, path)
  } finally {
    rmSync(join(directory, 's'), { force: true })
    rmdirSync(directory)
  }
  const { ino } = lstatSync(path)
  const forget = removeAtEnd(path)
  return () => {
    forget()
    if (lstatSync(path, { throwIfNoEntry: false })?.ino === ino) rmSync(path, { force: true })
  }
}

function checkLength(path: string): void {
  const bytes = Buffer.byteLength(path)
  if (bytes <= MAX_SOCKET_PATH) return
  throw new CkptError(
    'INVALID_ARGUMENT',
    `${path} has ${bytes} bytes, but the path of a socket has at most ${MAX_SOCKET_PATH}: choose a shorter one`,
    { fields: { field: 'socketPath', file: path } },
  )
}

/**
 * Removes the socket of a dead server. @throws CkptError `INVALID_ARGUMENT` if a different server listens, or if it is not a
 * socket.
 */
async function removeStale(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (found === undefined) return
  const refuse = (why: string) =>
    new CkptError('INVALID_ARGUMENT', `${path} ${why}`, { fields: { field: 'socketPath', file: path } })
  if (!found.isSocket()) throw refuse('exists and is not a socket: remove it, or choose a different path')
  const answers = await new Promise<boolean>((resolve) => {
    const probe = connect(path)
    probe
      .once('connect', () => (probe.destroy(), resolve(true)))
      .once('error', (error: NodeJS.ErrnoException) => {
        if (error.code === 'ECONNREFUSED') rmSync(path, { force: true })
        resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT')
      })
  })
  if (answers) throw refuse('is the socket of a different, running server')
}
