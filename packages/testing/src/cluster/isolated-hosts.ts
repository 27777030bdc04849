import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'

/** What a "host" has to itself; everything else it shares with this machine. Default: all of it. */
export interface Isolation {
  /** Network namespace, with an address of its own. */
  readonly net?: boolean
  /** `/dev/shm`. */
  readonly shm?: boolean
  readonly ipc?: boolean
  readonly pid?: boolean
  /** Host name. */
  readonly name?: boolean
}

export interface IsolatedHostsOptions extends Isolation {
  readonly count: number
  /** Size of each host's `/dev/shm` in bytes (default 512 MiB). */
  readonly shmBytes?: number
}

/** A "host" on this machine: namespaces of its own. */
export interface IsolatedHost {
  readonly name: string
  /** Address at which the other hosts reach it. */
  readonly address: string
  /** Command line that starts a program there. */
  readonly through: readonly string[]
  /** Takes its link down, or up again; for hosts with a network namespace. */
  link(state: 'up' | 'down'): void
  /** Ends all of its processes at once; for hosts with a PID namespace. */
  kill(): void
}

const NAMESPACES = [
  ['net', '--net'],
  ['ipc', '--ipc'],
  ['pid', '--pid'],
  ['name', '--uts'],
] as const
/** Addresses for tests of interconnects (RFC 2544). */
const NETWORK = '198.18.78'
const READY_MS = 20_000

let made = 0

/**
 * "Hosts" out of namespaces, connected by a switch. Needs root, util-linux and iproute2.
 *
 * A host lasts as long as the process that holds its namespaces; programs enter them by `nsenter`.
 */
export class IsolatedHosts implements AsyncDisposable {
  readonly hosts: readonly IsolatedHost[]
  readonly #holders: readonly ChildProcess[]
  readonly #switch: string | undefined

  private constructor(hosts: readonly IsolatedHost[], holders: readonly ChildProcess[], networkSwitch: string | undefined) {
    this.hosts = hosts
    this.#holders = holders
    this.#switch = networkSwitch
  }

  /** Creates hosts; returns the problem instead if this machine allows none. */
  static async create(options: IsolatedHostsOptions): Promise<IsolatedHosts | { readonly problem: string }> {
    const { net = true } = options
    const id = `${process.pid.toString(36)}${(made++).toString(36)}`
    const holders: ChildProcess[] = []
    const name = `ckpt-${id}-sw`
    const failed = (problem: string) => {
      new IsolatedHosts([], holders, net ? name : undefined)[Symbol.asyncDispose]().catch(() => undefined)
      return { problem: `no isolated hosts: ${problem}` }
    }
    try {
      if (net) {
        ip('netns', 'add', name)
        ip('-n', name, 'link', 'add', 'sw', 'type', 'bridge')
        ip('-n', name, 'link', 'set', 'sw', 'up')
      }
      const hosts: IsolatedHost[] = []
      for (let index = 0; index < options.count; index++) {
        const own = options.name === false ? 'ckpt-host' : `ckpt-host-${index}`
        const holder = hold(own, options)
        holders.push(holder)
        hosts.push(host(own, await inside(holder, options), index, options, net ? name : undefined))
      }
      return new IsolatedHosts(hosts, holders, net ? name : undefined)
    } catch (error) {
      return failed(error instanceof Error ? error.message : String(error))
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      this.#holders.map(async (holder) => {
        if (holder.exitCode !== null || holder.signalCode !== null) return
        const ended = new Promise((resolve) => holder.once('exit', resolve))
        holder.kill('SIGKILL')
        await ended
      }),
    )
    if (this.#switch !== undefined) spawnSync('ip', ['netns', 'del', this.#switch])
  }
}

function ip(...args: readonly string[]): void {
  const { status, stderr, error } = spawnSync('ip', args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`ip ${args.join(' ')}: ${error?.message ?? stderr.trim()}`)
}

/** Starts the process that holds a host's namespaces. It says when they are ready. */
function hold(name: string, options: IsolatedHostsOptions): ChildProcess {
  const flags = NAMESPACES.flatMap(([kind, flag]) => (options[kind] === false ? [] : [flag]))
  const forked = options.pid === false ? [] : ['--fork', '--mount-proc', '--kill-child']
  const shm = options.shm === false ? '' : `mount -t tmpfs -o size=${options.shmBytes ?? 2 ** 29} tmpfs /dev/shm && `
  const named = options.name === false ? '' : `echo ${name} > /proc/sys/kernel/hostname && `
  const script = `${shm}${named}echo ready && exec sleep infinity`
  return spawn('unshare', ['--mount', ...flags, ...forked, 'sh', '-c', script], { stdio: ['ignore', 'pipe', 'pipe'] })
}

/** Returns the id of the process inside a host's namespaces, once they are ready. */
async function inside(holder: ChildProcess, { pid }: Isolation): Promise<number> {
  const output = { text: '', problem: '' }
  holder.stdout!.on('data', (data: Buffer) => (output.text += String(data)))
  holder.stderr!.on('data', (data: Buffer) => (output.problem += String(data)))
  holder.once('error', (error) => (output.problem += error.message))
  for (const end = performance.now() + READY_MS; !output.text.includes('ready'); await delay(5)) {
    if (holder.exitCode !== null || holder.pid === undefined || performance.now() > end) {
      throw new Error(output.problem.trim() || `unshare ended with ${holder.exitCode}`)
    }
  }
  if (pid === false) return holder.pid!
  return Number(readFileSync(`/proc/${holder.pid}/task/${holder.pid}/children`, 'utf8').trim().split(' ')[0])
}

function host(name: string, pid: number, index: number, options: Isolation, networkSwitch: string | undefined): IsolatedHost {
  const enter = NAMESPACES.flatMap(([kind, flag]) => (options[kind] === false ? [] : [flag]))
  const through = ['nsenter', '--target', String(pid), '--mount', ...enter]
  const address = networkSwitch === undefined ? '127.0.0.1' : `${NETWORK}.${index + 1}`
  const link = `port${index}`
  const within = (...args: readonly string[]) => {
    const [command, ...rest] = [...through, 'ip', ...args]
    const { status, stderr } = spawnSync(command!, rest, { encoding: 'utf8' })
    if (status !== 0) throw new Error(`ip ${args.join(' ')} on ${name}: ${stderr.trim()}`)
  }
  if (networkSwitch !== undefined) {
    const peer = ['peer', 'name', 'eth0', 'netns', String(pid)]
    ip('-n', networkSwitch, 'link', 'add', link, 'type', 'veth', ...peer)
    ip('-n', networkSwitch, 'link', 'set', link, 'master', 'sw', 'up')
    within('addr', 'add', `${address}/24`, 'dev', 'eth0')
    within('link', 'set', 'lo', 'up')
    within('link', 'set', 'eth0', 'up')
  }
  return {
    name,
    address,
    through,
    link: (state) => ip('-n', networkSwitch!, 'link', 'set', link, state),
    kill: () => void process.kill(pid, 'SIGKILL'),
  }
}
