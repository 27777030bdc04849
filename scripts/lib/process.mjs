import { spawn, spawnSync } from 'node:child_process'
import { createInterface } from 'node:readline'
import { ROOT } from './root.mjs'

const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP']
// A signal to the whole process group reaches this process several times (from the terminal, from npm): pass it on once.
const SAME_SIGNAL_MS = 1000

/**
 * @typedef {object} RunOptions
 * @property {string} [cwd] the root directory by default
 * @property {NodeJS.ProcessEnv} [env]
 * @property {boolean} [capture] returns the output instead of showing it
 * @property {boolean} [tee] returns the output and shows it
 * @property {(line: string) => void} [onLine] told each line of the output, where that is captured or shown too
 * @property {number} [timeoutMs]
 */

/**
 * Runs a program to its end. Signals that this process gets go on to it, so that it can clean up, and this process waits for it.
 * @param {string} command
 * @param {readonly string[]} args
 * @param {RunOptions} [options]
 * @returns {Promise<{ code: number, signal: NodeJS.Signals | null, output: string }>} code 127 when it cannot be started
 */
export function run(command, args, { cwd = ROOT, env = process.env, capture = false, tee = false, onLine, timeoutMs } = {}) {
  return new Promise((resolve) => {
    const piped = capture || tee
    const child = spawn(command, args, { cwd, env, stdio: piped ? ['ignore', 'pipe', 'pipe'] : 'inherit' })
    let output = ''
    let note = ''
    if (piped) {
      for (const [stream, target] of [
        [child.stdout, process.stdout],
        [child.stderr, process.stderr],
      ]) {
        stream.setEncoding('utf8')
        if (onLine !== undefined) createInterface({ input: stream }).on('line', onLine)
        stream.on('data', (text) => {
          output += text
          if (tee) target.write(text)
        })
      }
    }
    const lastSent = new Map()
    const handlers = FORWARDED.map((signal) => [
      signal,
      () => {
        const now = Date.now()
        const before = lastSent.get(signal) ?? 0
        lastSent.set(signal, now)
        // Ctrl-C in a terminal already went to every process of the foreground group.
        const fromTerminal = signal === 'SIGINT' && process.stdin.isTTY
        if (!fromTerminal && now - before > SAME_SIGNAL_MS) child.kill(signal)
      },
    ])
    for (const [signal, handler] of handlers) process.on(signal, handler)
    const timer =
      timeoutMs === undefined
        ? undefined
        : setTimeout(() => {
            note = `\n${command} was ended after ${timeoutMs / 1000} s`
            child.kill('SIGTERM')
            setTimeout(() => child.kill('SIGKILL'), 10_000).unref()
          }, timeoutMs)
    const finish = (code, signal) => {
      clearTimeout(timer)
      for (const [name, handler] of handlers) process.off(name, handler)
      resolve({ code, signal, output: output + note })
    }
    child.on('error', (error) => {
      output += `${command}: ${error.message}\n`
      if (!capture) process.stderr.write(`${command}: ${error.message}\n`)
      finish(127, null)
    })
    child.on('close', (code, signal) => finish(code ?? 1, signal))
  })
}

/**
 * Ends this process as its child ended: with the same code, or by the same signal.
 * @param {{ code: number, signal: NodeJS.Signals | null }} ended
 */
export function exitLike({ code, signal }) {
  if (signal === null) process.exit(code)
  process.kill(process.pid, signal)
  setTimeout(() => process.exit(1), 1000)
}

/**
 * What a program prints, trimmed (its warnings only where it prints nothing else); undefined when it is missing or fails.
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ env?: NodeJS.ProcessEnv, cwd?: string }} [options]
 * @returns {string | undefined}
 */
export function probe(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', timeout: 20_000, ...options })
  return result.status === 0 ? result.stdout.trim() || result.stderr.trim() : undefined
}
