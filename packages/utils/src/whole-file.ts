import { randomBytes } from 'node:crypto'
import { open, realpath, rename, stat, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { CkptError } from '@ckpt/contract'

/**
 * Writes a file that only its owner may read. It appears as a whole or not at all, even if the machine loses power or the disk
 * is full: the previous file stays until then. A link is followed; only a regular file is replaced.
 *
 * @throws CkptError `NATIVE_FAILURE` naming the file, with the system's `errno`.
 */
export async function writeWholeFile(path: string, text: string): Promise<void> {
  let temporary: string | undefined
  try {
    const target = await replaceable(path)
    // An unpredictable name, which matters if the directory is shared.
    temporary = `${target}.${randomBytes(8).toString('hex')}.tmp`
    {
      await using file = await open(temporary, 'wx', 0o600)
      await file.writeFile(text)
      await file.sync()
    }
    await rename(temporary, target)
    temporary = undefined
    await using directory = await open(dirname(target), 'r')
    // Some file systems cannot do this for directories; the file is complete anyway.
    await directory.sync().catch(() => undefined)
  } catch (error) {
    if (temporary !== undefined) await unlink(temporary).catch(() => undefined)
    throw CkptError.from(error, 'NATIVE_FAILURE', `cannot write ${path}`, { file: path })
  }
}

/** Resolves links of a path; the target need not exist. */
async function replaceable(path: string): Promise<string> {
  const target = await realpath(path).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return path
    throw error
  })
  const found = await stat(target).catch(() => undefined)
  if (found !== undefined && !found.isFile()) throw new Error('it is not a regular file')
  return target
}
