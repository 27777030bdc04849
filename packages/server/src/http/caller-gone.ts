import type { IncomingMessage, ServerResponse } from 'node:http'
import { CkptError } from '@ckpt/contract'

/** Time between two looks for a caller that has closed its half of the connection, in milliseconds. */
const LOOK_MS = 250

/**
 * Returns a signal that is aborted when the caller is gone before it has got its answer.
 *
 * A caller that is gone and one that has only closed its own half look the same until something is written. Interim answers
 * (`100 Continue`, which callers skip) are: the system of a caller that is gone rejects them.
 */
export function callerGone({ socket }: IncomingMessage, response: ServerResponse): AbortSignal {
  const controller = new AbortController()
  let looking: NodeJS.Timeout | undefined
  const look = (): void => {
    if (!response.headersSent && socket.writable) response.writeContinue()
  }
  const begin = (): void => {
    look()
    looking = setInterval(look, LOOK_MS)
    looking.unref()
  }
  if (socket.readableEnded) begin()
  else socket.once('end', begin)
  response.once('close', () => {
    socket.off('end', begin)
    clearInterval(looking)
    if (!response.writableFinished) controller.abort(new CkptError('ABORTED', 'the caller closed its connection'))
  })
  return controller.signal
}
