import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** Node's flags for this package's processes: the workspace's TypeScript runs from source; built code needs none. */
export const SOURCE_FLAGS: readonly string[] = import.meta.url.endsWith('.ts')
  ? ['--import', import.meta.resolve('tsx'), '--conditions=@ckpt/source']
  : []

let bundles: Readonly<Record<string, string>> | undefined

/**
 * Returns Node's arguments for a program of this repository, given by the URL or path of its source: the source itself, or the
 * bundle that a test run made of it.
 */
export function nodeArguments(source: URL | string): string[] {
  const path = typeof source === 'string' ? source : fileURLToPath(source)
  const index = process.env['HARNESS_PROGRAMS']
  bundles ??= index === undefined ? {} : (JSON.parse(readFileSync(index, 'utf8')) as Record<string, string>)
  const bundle = bundles[path]
  return bundle === undefined ? [...SOURCE_FLAGS, path] : [bundle]
}

/** A child process of this package; its stderr is kept for error messages. */
export interface Spawned {
  readonly child: ChildProcess
  readonly name: string
  /** Last lines that it wrote to stderr. */
  stderr(): string
  /** Ends it: `signal`, then SIGKILL after `graceMs`. Resolves when it has ended. */
  stop(signal?: NodeJS.Signals, graceMs?: number): Promise<void>
}

/** Further options for starting a process. */
export interface SpawnOptions {
  readonly env?: NodeJS.ProcessEnv
  /** Command line that starts it, such as `nsenter` or `taskset` with their arguments (default: none). */
  readonly through?: readonly string[]
}

/**
 * Starts `module` (a file URL of a TypeScript source; `pnpm bundle` replaces it with the built file's) as a child process with
 * an IPC channel.
 */
export function spawnSource(name: string, module: URL, args: readonly string[] = [], options: SpawnOptions = {}): Spawned {
  const [command, ...before] = options.through ?? []
  const flags = nodeArguments(module)
  const program = flags.pop()!
  const child = fork(program, args, {
    execPath: command ?? process.execPath,
    execArgv: [...before, ...(command === undefined ? [] : [process.execPath]), ...flags, '--expose-gc'], // so that live objects can be distinguished from garbage
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
    serialization: 'advanced',
  })
  return wrap(name, child)
}

/** Resolves when the process reports that it is at `point`; rejects if it ends before, or after `timeoutMs`. */
export function atPoint(spawned: Spawned, point: string, timeoutMs: number): Promise<void> {
  const { child, name } = spawned
  return new Promise((resolve, reject) => {
    const finish = (error?: Error) => {
      clearTimeout(timer)
      child.off('message', onMessage)
      child.off('exit', onExit)
      if (error) reject(error)
      else resolve()
    }
    const onMessage = (message: unknown) => {
      if (typeof message === 'object' && message !== null && 'point' in message && message.point === point) finish()
    }
    const onExit = () => finish(new Error(`${name} ended before it was at ${point}: ${spawned.stderr()}`))
    const timer = setTimeout(() => finish(new Error(`${name} was not at ${point} within ${timeoutMs} ms`)), timeoutMs)
    child.on('message', onMessage)
    child.once('exit', onExit)
  })
}

/** Keeps a child's last stderr lines and ends it cleanly. */
export function wrap(name: string, child: ChildProcess): Spawned {
  let tail = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (tail = (tail + text).slice(-8000)))
  const gone = once(child, 'exit').catch(() => undefined)
  const running = () => child.exitCode === null && child.signalCode === null
  return {
    child,
    name,
    stderr: () => tail,
    async stop(signal = 'SIGTERM', graceMs = 3000) {
      if (!running()) return
      child.kill(signal)
      const timer = setTimeout(() => child.kill('SIGKILL'), graceMs)
      await gone
      clearTimeout(timer)
    },
  }
}
