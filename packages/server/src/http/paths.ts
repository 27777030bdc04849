import { isAbsolute, relative, resolve, sep } from 'node:path'
import { CkptError } from '@ckpt/contract'

/**
 * The files that a request names, as a source to register from. With a `root` relative paths start there, and what lies outside is refused
 * when it is opened: no path is looked up here, since it may lead elsewhere by the time that it is used.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the file for a relative path without a `root`.
 */
export function checkpointFiles(
  paths: readonly string[],
  root: string | undefined,
): { files: readonly string[]; root?: string } {
  if (root !== undefined) return { files: paths, root }
  for (const path of paths) {
    if (path.includes('\0')) throw refused(path, 'holds a NUL character')
    if (!isAbsolute(path)) throw refused(path, 'is not an absolute path')
  }
  return { files: paths }
}

/** True if `path` lies beneath `root`, as they are written. */
export function isInside(root: string, path: string): boolean {
  const from = relative(resolve(root), path)
  return from !== '' && from !== '..' && !from.startsWith(`..${sep}`) && !isAbsolute(from)
}

function refused(path: string, why: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', `${path} ${why}`, { fields: { file: path, field: 'files' } })
}
