import { isAbsolute, relative, resolve, sep } from 'node:path'
import { CkptError } from '@ckpt/contract'

/**
 * Returns the files of a request as a source to register from. With a `root`, relative paths start there, and files outside are
 * refused when they are opened: paths are not resolved here, because they may lead elsewhere by the time they are used.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the file for a relative path without a `root`.
 */
export function checkpointFiles(
  paths: readonly string[],
  root: string | undefined,
): { files: readonly string[]; root?: string } {
  if (root !== undefined) return { files: paths, root }
  for (const path of paths) {
    if (path.includes('\0')) throw refused(path, 'contains a NUL character')
    if (!isAbsolute(path)) throw refused(path, 'is not an absolute path')
  }
  return { files: paths }
}

/** Returns true if `path`, as written, is below `root`. */
export function isInside(root: string, path: string): boolean {
  const from = relative(resolve(root), path)
  return from !== '' && from !== '..' && !from.startsWith(`..${sep}`) && !isAbsolute(from)
}

function refused(path: string, why: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', `${path} ${why}`, { fields: { file: path, field: 'files' } })
}
