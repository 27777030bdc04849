import { constants } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import { CkptError } from '@ckpt/contract'
import { headerLength, headerSteps, LENGTH_BYTES, type SafetensorsHeader } from './header.ts'
import { malformed, unreadable } from './malformed.ts'
import { headerTurn, Slices } from './slices.ts'

/**
 * Reads and checks the header of a safetensors file; none of its data is read.
 *
 * @throws CkptError `CHECKPOINT_UNREADABLE` with the system's errno, or `CHECKPOINT_MALFORMED`; both name the file.
 */
export async function readHeader(path: string): Promise<SafetensorsHeader> {
  let handle: FileHandle | undefined
  let done: (() => void) | undefined
  try {
    handle = await openRegular(path)
    const stat = await handle.stat()
    const source = { file: path, fileBytes: stat.size }
    const start = await readUpTo(handle, Buffer.alloc(Math.min(LENGTH_BYTES, stat.size)), 0)
    const length = headerLength(start, source)
    done = await headerTurn(length)
    const bytes = Buffer.allocUnsafeSlow(LENGTH_BYTES + length)
    start.copy(bytes)
    const whole = await readUpTo(handle, bytes, LENGTH_BYTES)
    if (whole.length < bytes.length) throw malformed({ file: path, field: 'header' }, 'the file shrank while it was read')
    return await Slices.run(headerSteps(whole, source))
  } catch (error) {
    throw CkptError.is(error) ? error : unreadable(path, error)
  } finally {
    done?.()
    await handle?.close()
  }
}

/**
 * Opens a regular file to read it. Anything else is refused, and never waited for: opening a pipe that nobody writes to would block one of
 * the process's few file threads for good.
 *
 * @throws CkptError `CHECKPOINT_UNREADABLE`, or what the system says.
 */
export async function openRegular(path: string): Promise<FileHandle> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    if ((await handle.stat()).isFile()) return handle
    throw new CkptError('CHECKPOINT_UNREADABLE', `${path}: not a regular file`, { fields: { file: path } })
  } catch (error) {
    await handle.close()
    throw error
  }
}

/** Fills `buffer` from index `at` on with the file's bytes at the same offset; shorter when the file ends before. */
async function readUpTo(handle: FileHandle, buffer: Buffer, at: number): Promise<Buffer> {
  let filled = at
  while (filled < buffer.length) {
    const { bytesRead } = await handle.read(buffer, filled, buffer.length - filled, filled)
    if (bytesRead === 0) break
    filled += bytesRead
  }
  return buffer.subarray(0, filled)
}
