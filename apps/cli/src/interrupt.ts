import { constants } from 'node:os'
import { CkptError } from '@ckpt/contract'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/**
 * Runs `work` with a signal that SIGINT, SIGTERM or SIGHUP aborts, so that it can end cleanly. A second signal, more than a second
 * after the first (a terminal and a launcher may both pass on one Ctrl-C), ends the process at once.
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  let first = 0
  const onSignal = (name: NodeJS.Signals) => {
    if (first === 0) {
      first = performance.now()
      process.exitCode = 128 + constants.signals[name]
      controller.abort(new CkptError('ABORTED', `interrupted by ${name}`))
    } else if (performance.now() - first > 1000) process.exit(128 + constants.signals[name])
  }
  for (const name of SIGNALS) process.on(name, onSignal)
  try {
    return await work(controller.signal)
  } finally {
    for (const name of SIGNALS) process.off(name, onSignal)
  }
}
