import { lstatSync, readdirSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { aliveName } from './alive-name.ts'

/**
 * Removes runtime directories of killed processes of this user in `root`: those whose socket has no listener. Unlike a process
 * id, this also works for processes in other namespaces. Directories of other machines, or without such a socket, are left
 * alone. Never throws: failures to remove are ignored.
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
      // A different process is removing it at this moment, or it cannot be removed.
    }
  }
}

function list(root: string): string[] {
  try {
    return readdirSync(root)
  } catch {
    return [] // it may be writable, but not readable
  }
}

/** Returns true if there is a socket without a listener. */
function refuses(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path)
    probe
      .once('connect', () => (probe.destroy(), resolve(false)))
      .once('error', ({ code }: NodeJS.ErrnoException) => resolve(code === 'ECONNREFUSED'))
  })
}
