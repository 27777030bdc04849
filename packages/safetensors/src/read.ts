import { CkptError } from '@ckpt/contract'
import { foreignKind } from './foreign.ts'
import { headerLength, headerSteps, LENGTH_BYTES, type SafetensorsHeader } from './header.ts'
import { malformed, unreadable } from './malformed.ts'
import { OpenedFile } from './opened-file.ts'
import { headerTurn, Slices } from './slices.ts'

/** Number of bytes of a file that are checked to determine its kind. */
const SNIFFED_BYTES = 512

/**
 * Reads and checks the header of a safetensors file; none of its data is read.
 *
 * @throws CkptError `CHECKPOINT_UNREADABLE` with the system's errno, `CHECKPOINT_MALFORMED`, or `CHECKPOINT_CHANGED` for a file that
 * changes meanwhile; all name the file.
 */
export async function readHeader(path: string): Promise<SafetensorsHeader> {
  await using file = await OpenedFile.open(path)
  return await headerOf(file)
}

/**
 * Reads and checks the header of an open file.
 *
 * @throws CkptError as for {@link readHeader}.
 */
export async function headerOf(file: OpenedFile): Promise<SafetensorsHeader> {
  let done: (() => void) | undefined
  try {
    const source = { file: file.path, fileBytes: file.bytes }
    const start = await file.read(Buffer.alloc(Math.min(LENGTH_BYTES, file.bytes)), 0)
    const length = headerLength(start, source)
    done = await headerTurn(length)
    const bytes = Buffer.allocUnsafeSlow(LENGTH_BYTES + length)
    start.copy(bytes)
    const whole = await file.read(bytes, LENGTH_BYTES)
    if (whole.length < bytes.length) throw malformed({ file: file.path, field: 'header' }, 'the file shrank while it was read')
    return await Slices.run(headerSteps(whole, source))
  } catch (error) {
    if (!CkptError.is(error)) throw unreadable(file.path, error)
    // If a header is incomplete because its file is being written, that is the error to report.
    await file.checkUnchanged(error)
    throw await named(file, error)
  } finally {
    done?.()
  }
}

/** Returns the error, or a better one if the file is recognised as something other than safetensors. */
async function named(file: OpenedFile, error: CkptError): Promise<CkptError> {
  const start = await file.read(Buffer.alloc(Math.min(SNIFFED_BYTES, file.bytes)), 0).catch(() => Buffer.alloc(0))
  const kind = foreignKind(start)
  if (kind === undefined) return error
  const { fields } = error
  return new CkptError('CHECKPOINT_MALFORMED', `${file.path}: not a safetensors file but ${kind}`, { fields, cause: error })
}
