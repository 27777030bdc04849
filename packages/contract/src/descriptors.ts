import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { CkptError } from './errors.ts'

/** Open files that a ZeroMQ socket takes, with its context's threads and some connections. */
const SOCKET_DESCRIPTORS = 32

/**
 * Makes sure that a ZeroMQ socket can be made: where the threads of its context get no descriptor the library ends the process, without an exception.
 *
 * @throws CkptError `OUT_OF_MEMORY` naming what the socket is for, the limit and how many files are open.
 */
export function requireSocketDescriptors(what: string): void {
  const taken: number[] = []
  try {
    while (taken.length < SOCKET_DESCRIPTORS) taken.push(openSync('/dev/null', 'r'))
  } catch (error) {
    const { code, errno } = error as NodeJS.ErrnoException
    if (code !== 'EMFILE' && code !== 'ENFILE') return
    const free = taken.length
    for (const descriptor of taken.splice(0)) closeSync(descriptor)
    const text = `${what} needs ${SOCKET_DESCRIPTORS} open files, ${free} are left${limits(code === 'EMFILE')}`
    const fields = { file: '/proc/self/limits', field: 'Max open files', ...(errno !== undefined && { errno: -errno }) }
    throw new CkptError('OUT_OF_MEMORY', text, { fields, cause: error })
  } finally {
    for (const descriptor of taken) closeSync(descriptor)
  }
}

/** What is known of the limit, and the remedy. */
function limits(own: boolean): string {
  if (!own) return ' on this machine (/proc/sys/fs/file-max): close files of other processes, or raise it'
  try {
    const limit = /^Max open files\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]
    const open = readdirSync('/proc/self/fd').length
    return ` of ${limit} (RLIMIT_NOFILE in /proc/self/limits; ${open} are open): close some, or raise it (ulimit -n, docker run --ulimit nofile=N)`
  } catch {
    return ': raise the limit (ulimit -n)'
  }
}
