import { CkptError } from '@ckpt/contract'

/**
 * Runs `work` with a signal that SIGINT or SIGTERM aborts, so that it can end cleanly. A second signal, more than a second
 * after the first (a terminal and a launcher may both pass on one Ctrl-C), ends the process at once.
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  let first = 0
  const onSignal = (name: NodeJS.Signals) => {
    if (first === 0) {
      first = performance.now()
      process.exitCode = name === 'SIGINT' ? 130 : 143
      controller.abort(new CkptError('ABORTED', `interrupted by ${name}`))
    } else if (performance.now() - first > 1000) process.exit(name === 'SIGINT' ? 130 : 143)
  }
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal)
  try {
    return await work(controller.signal)
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal)
  }
}
