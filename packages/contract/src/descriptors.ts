import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { CkptError } from './errors.ts'

/** File descriptors that a ZeroMQ socket needs, including its context's threads and some connections. */
const SOCKET_DESCRIPTORS = 32

/**
 * Checks that a ZeroMQ socket can be created. If the threads of its context get no descriptor, the library ends the process
 * without an exception.
 *
 * @throws CkptError `OUT_OF_MEMORY` with the socket's purpose, the limit and the number of open files.
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
    const text = `${what} needs ${SOCKET_DESCRIPTORS} open files, but only ${free} are left${limits(code === 'EMFILE')}`
    const fields = { file: '/proc/self/limits', field: 'Max open files', ...(errno !== undefined && { errno: -errno }) }
    throw new CkptError('OUT_OF_MEMORY', text, { fields, cause: error })
  } finally {
    for (const descriptor of taken) closeSync(descriptor)
  }
}

/** Describes the limit and the remedy. */
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
