import { lstatSync, readdirSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { aliveName } from './alive-name.ts'

/**
 * Removes what killed processes of this user left in `root`: runtime directories whose socket nobody listens on. Unlike a process id, that is the
 * same for processes in other namespaces. Directories of other machines, or without such a socket, are left alone. Never throws: what
 * cannot be removed does not matter.
 */
export async function removeDeadDirectories(root: string): Promise<void> {
  const alive = aliveName()
  if (alive === undefined) return
  for (const name of list(root)) {
    if (!/^ckpt-\d+-\w{6}$/.test(name)) continue
    const path = join(root, name)
    try {
      const { uid, mode } = lstatSync(path) // not followed: others may put links here
      if ((mode & 0o170000) !== 0o040000 || uid !== process.geteuid?.()) continue
      if (!(await refuses(join(path, alive)))) continue
      rmSync(path, { recursive: true, force: true })
    } catch {
      // Somebody else removes it at this moment, or nobody may.
    }
  }
}

function list(root: string): string[] {
  try {
    return readdirSync(root)
  } catch {
    return [] // it may be written to, but not be read
  }
}

/** True if there is a socket that nobody listens on. */
function refuses(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path)
    probe
      .once('connect', () => (probe.destroy(), resolve(false)))
      .once('error', ({ code }: NodeJS.ErrnoException) => resolve(code === 'ECONNREFUSED'))
  })
}
