import type { Waiting } from '@ckpt/contract'
import { tell } from './terminal/progress.ts'
import { destination, pino, type Logger } from 'pino'

/**
 * Keeps this process working if its output is not read: after a reader has gone (`| head`), output is discarded. If results
 * cannot be written for a different reason, such as a full disk, the exit status is 1.
 */
export function outliveReaders(): void {
  let lost: NodeJS.ErrnoException | undefined
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE' || lost !== undefined) return
    lost = error
    process.stderr.write(`ckpt: results cannot be written to stdout: ${error.message}\n`)
  })
  // There is no reader to tell.
  process.stderr.on('error', () => undefined)
  process.on('exit', () => {
    if (lost !== undefined) process.exitCode ||= 1
  })
}

/** Writes JSON lines to stderr, as long as it is read. */
export function stderrLogger(level: 'debug' | 'warn' | 'silent'): Logger {
  const stream = destination({ fd: 2, sync: true })
  stream.on('error', () => undefined)
  return pino({ level }, stream)
}

/** Reports on stderr what this rank waits for. */
export function printWaiting({ what, sinceMs, rank }: Waiting): void {
  const who = rank === undefined ? '' : `rank ${rank}: `
  tell(`${who}waiting for ${what}, for ${Math.round(sinceMs / 1000)} s now`)
}
