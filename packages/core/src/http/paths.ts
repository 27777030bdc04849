import { realpath } from 'node:fs/promises'
import { isAbsolute, relative, resolve, sep } from 'node:path'
import { CkptError } from '@ckpt/contract'

/**
 * The files that `paths` name, links followed. With a `root` relative paths start there, and what lies outside is refused.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the file for one outside `root`, or a relative one without a `root`;
 * `CHECKPOINT_UNREADABLE` for one that is not there.
 */
export async function checkpointFiles(paths: readonly string[], root: string | undefined): Promise<string[]> {
  const base = root === undefined ? undefined : await real(root, root)
  return Promise.all(
    paths.map(async (path) => {
      if (path.includes('\0')) throw refused(path, 'holds a NUL character')
      if (base === undefined) {
        if (!isAbsolute(path)) throw refused(path, 'is not an absolute path')
        return real(path, path)
      }
      const wanted = resolve(base, path)
      // Before anything is looked up too, so that an answer does not tell what lies outside.
      if (!isInside(base, wanted) && !isInside(root!, wanted)) throw refused(path, 'lies outside the checkpoint root')
      const found = await real(wanted, path)
      if (!isInside(base, found)) throw refused(path, 'lies outside the checkpoint root')
      return found
    }),
  )
}

async function real(path: string, given: string): Promise<string> {
  try {
    return await realpath(path)
  } catch (error) {
    throw CkptError.from(error, 'CHECKPOINT_UNREADABLE', `cannot read ${given}`, { file: given })
  }
}

/** True if `path` lies beneath `root`, as they are written. */
export function isInside(root: string, path: string): boolean {
  const from = relative(resolve(root), path)
  return from !== '' && from !== '..' && !from.startsWith(`..${sep}`) && !isAbsolute(from)
}

function refused(path: string, why: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', `${path} ${why}`, { fields: { file: path, field: 'files' } })
}
