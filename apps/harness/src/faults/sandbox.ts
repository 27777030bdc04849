import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'

/** Set inside: only this campaign uses /dev/shm and the temporary directory. */
const INSIDE = 'CKPT_FAULTS_SANDBOX'
const SHARED_BYTES = '384m'

/** Returns the reason why there is no sandbox, or undefined inside one. */
export function outsideBecause(): string | undefined {
  const state = process.env[INSIDE]
  return state === 'yes' ? undefined : (state ?? 'it was not requested')
}

/** Returns true if file systems can be made and mounted inside. */
export function canMountDisks(): boolean {
  return process.env[INSIDE] === 'yes' && process.getuid?.() === 0 && process.env['CKPT_FAULTS_REAL_ROOT'] === 'yes'
}

/**
 * Runs this program again in a mount namespace with a separate small /dev/shm and temporary directory, and without the right to
 * lock memory without limit, so that these can be filled, counted and refused without affecting others. If the system does not
 * allow it, the program runs without a sandbox, and reports it. Ends this process with the other's exit code; returns at once
 * inside.
 */
export async function enterSandbox(): Promise<void> {
  if (process.env[INSIDE] !== undefined) return
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-sandbox-'))
  const refused = probe(directory)
  const self = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  const env = { ...process.env, [INSIDE]: refused ?? 'yes', ...(process.getuid?.() === 0 && { CKPT_FAULTS_REAL_ROOT: 'yes' }) }
  const child =
    refused === undefined
      ? spawn('unshare', inSandbox(directory, self), { stdio: 'inherit', env })
      : spawn(self[0]!, self.slice(1), { stdio: 'inherit', env })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
  const code = await new Promise<number>((resolve) => {
    child.once('error', () => resolve(1))
    child.once('exit', (exit, signal) => resolve(exit ?? 128 + (signal ? constants.signals[signal] : 0)))
  })
  rmSync(directory, { recursive: true, force: true })
  process.exit(code)
}

/** Returns the command that creates the sandbox and runs `command` in it. */
function inSandbox(directory: string, command: readonly string[]): string[] {
  const own = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']
  const script = [
    `mount -t tmpfs -o size=${SHARED_BYTES},mode=1777 tmpfs /dev/shm`,
    // Mounted over a separate directory, so that the caller's paths in /tmp stay unchanged.
    `mount -t tmpfs -o size=1g,mode=1777 tmpfs ${directory}`,
    `export TMPDIR=${directory} XDG_RUNTIME_DIR=${directory}`,
    // Unlimited otherwise for root.
    'exec setpriv --inh-caps=-ipc_lock --bounding-set=-ipc_lock -- "$@"',
  ].join(' && ')
  return ['--mount', '--propagation', 'private', ...own, '--', 'sh', '-c', script, 'sh', ...command]
}

function probe(directory: string): string | undefined {
  const { status, stderr, error } = spawnSync('unshare', inSandbox(directory, ['true']), {
    encoding: 'utf8',
    env: { ...process.env, CKPT_FAULTS_PROBE: '1' },
  })
  if (status === 0) return undefined
  return `unshare, mount or setpriv cannot be used (${(error?.message ?? stderr.trim()).split('\n')[0]})`
}
