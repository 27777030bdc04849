import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'

/** Parts of the system that a "host" has to itself; it shares the others with this machine. Default: all of them. */
export interface Isolation {
  /** Network namespace, with an address of its own on a common switch. */
  readonly net?: boolean
  /** `/dev/shm`. */
  readonly shm?: boolean
  /** Directory of temporary files: `TMPDIR`, the same path on every host, with different contents. */
  readonly tmp?: boolean
  readonly ipc?: boolean
  readonly pid?: boolean
  /** Host name. */
  readonly name?: boolean
}

/** Namespaces of one host. */
export interface NamespaceOptions extends Isolation {
  readonly hostname: string
  /** Directory over which the host's own temporary files are mounted. */
  readonly tmpDirectory: string
  readonly shmBytes: number
}

const FLAGS = [
  ['net', '--net'],
  ['ipc', '--ipc'],
  ['pid', '--pid'],
  ['name', '--uts'],
] as const
const READY_MS = 20_000
/** Shifts the wall clock of a program (Debian's package libfaketime). */
const FAKETIME = '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1'

function flagsOf(isolation: Isolation): string[] {
  return ['--mount', ...FLAGS.flatMap(([kind, flag]) => (isolation[kind] === false ? [] : [flag]))]
}

/** Namespaces, and the process that keeps them. They end with it, and it ends with this process. */
export class Namespaces {
  /** Id of a process inside. */
  readonly pid: number
  readonly #holder: ChildProcess

  private constructor(holder: ChildProcess, pid: number) {
    this.#holder = holder
    this.pid = pid
  }

  /** @throws Error with the reason why they cannot be created. */
  static async create(options: NamespaceOptions): Promise<Namespaces> {
    const forked = options.pid === false ? [] : ['--fork', '--mount-proc', '--kill-child']
    const steps = [
      options.shm !== false && `mount -t tmpfs -o size=${options.shmBytes},mode=1777 tmpfs /dev/shm`,
      options.tmp !== false && `mount -t tmpfs -o size=256m,mode=1777 tmpfs ${options.tmpDirectory}`,
      options.name !== false && `echo ${options.hostname} > /proc/sys/kernel/hostname`,
      options.net !== false && 'ip link set lo up',
      'echo ready',
      'exec cat',
    ]
    const script = steps.filter((step) => step !== false).join(' && ')
    const holder = spawn('unshare', [...flagsOf(options), ...forked, 'sh', '-c', script], { stdio: 'pipe' })
    const output = { text: '', problem: '' }
    holder.stdin.on('error', () => undefined)
    holder.stdout.on('data', (data: Buffer) => (output.text += String(data)))
    holder.stderr.on('data', (data: Buffer) => (output.problem += String(data)))
    holder.once('error', (error) => (output.problem += error.message))
    for (const end = performance.now() + READY_MS; !output.text.includes('ready'); await delay(5)) {
      if (holder.exitCode === null && holder.pid !== undefined && performance.now() < end) continue
      holder.kill('SIGKILL')
      throw new Error(output.problem.trim() || `unshare ended with ${holder.exitCode}`)
    }
    const children = options.pid === false ? undefined : readFileSync(`/proc/${holder.pid}/task/${holder.pid}/children`, 'utf8')
    return new Namespaces(holder, children === undefined ? holder.pid! : Number(children.trim().split(' ')[0]))
  }

  /** Returns the command line that starts a program inside. */
  enter(isolation: Isolation): string[] {
    return ['nsenter', '--target', String(this.pid), ...flagsOf(isolation)]
  }

  /** Ends the process that keeps them and, if they have process ids of their own, all processes inside. */
  async end(): Promise<void> {
    if (this.#holder.exitCode !== null || this.#holder.signalCode !== null) return
    const ended = new Promise((resolve) => this.#holder.once('exit', resolve))
    try {
      process.kill(this.pid, 'SIGKILL')
    } catch {
      this.#holder.kill('SIGKILL')
    }
    await ended
  }
}

/** Runs `ip` or `tc` with the network of a process. @throws Error with its output. */
export function network(pid: number, command: 'ip' | 'tc', ...args: readonly string[]): void {
  const { status, stderr, error } = spawnSync('nsenter', ['--target', String(pid), '--net', command, ...args], {
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr.trim()}`)
}

const problems = new Map<string, string | undefined>()

/** Returns the reason why this machine allows no hosts with this isolation; undefined if it does. */
export function hostsProblem(isolation: Isolation = {}): string | undefined {
  const flags = flagsOf(isolation)
  const key = `${flags.join()} ${isolation.shm !== false || isolation.tmp !== false}`
  if (!problems.has(key)) {
    const steps = [
      'true',
      ...(isolation.net === false ? [] : ['ip link add veth-a type veth peer name veth-b', 'ip link add sw type bridge']),
      ...(isolation.shm === false && isolation.tmp === false ? [] : ['mount -t tmpfs tmpfs /dev/shm']),
    ]
    const probe = spawnSync('unshare', [...flags, '--fork', 'sh', '-c', steps.join(' && ')], { encoding: 'utf8' })
    const why = probe.status === 0 ? undefined : (probe.error?.message ?? probe.stderr.trim().split('\n')[0])
    problems.set(key, why === undefined ? undefined : `no hosts out of namespaces (${flags.join(' ')}): ${why}`)
  }
  return problems.get(key)
}

/** Returns the reason why hosts cannot have wall clocks of their own; undefined if they can. */
export function clockProblem(): string | undefined {
  return existsSync(FAKETIME) ? undefined : `${FAKETIME} is missing; apt-get install libfaketime`
}

/** Environment of a program whose wall clock is `seconds` ahead. */
export function clockEnvironment(seconds: number): Record<string, string> {
  return { LD_PRELOAD: FAKETIME, FAKETIME: `${seconds < 0 ? '' : '+'}${seconds}s`, FAKETIME_DONT_FAKE_MONOTONIC: '1' }
}
