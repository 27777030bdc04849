import { spawn, type ChildProcess, type SpawnOptions } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { clockEnvironment, Namespaces, network, type Isolation, type NamespaceOptions } from './namespaces.ts'

/** Place of a host on the switch. */
export interface SwitchPort {
  /** Id of a process in the switch's network namespace. */
  readonly pid: number
  readonly name: string
}

/** Options of one host. */
export interface HostOptions extends NamespaceOptions {
  readonly address: string
  /** Absent for hosts that share this machine's network. */
  readonly port?: SwitchPort
  /** Rate of its link in each direction, in bytes per second (default: as fast as it can be). */
  readonly bytesPerSecond?: number
  /** Seconds by which its wall clock is ahead (default 0). */
  readonly clockSeconds?: number
}

/** Direction of packets, as the host sees it. */
export type Direction = 'in' | 'out'

/** A packet that fits into no queue is lost. */
const LOSE = ['pfifo', 'limit', '0']

/** A "host" on this machine: namespaces of its own, and a link to the other hosts. */
export class NamespaceHost {
  readonly name: string
  /** Address at which the other hosts reach it. */
  readonly address: string
  readonly #options: HostOptions
  #namespaces: Namespaces

  private constructor(options: HostOptions, namespaces: Namespaces) {
    this.name = options.hostname
    this.address = options.address
    this.#options = options
    this.#namespaces = namespaces
  }

  static async start(options: HostOptions): Promise<NamespaceHost> {
    const host = new NamespaceHost(options, await Namespaces.create(options))
    try {
      host.#connect()
      return host
    } catch (error) {
      await host.kill()
      throw error
    }
  }

  /** Command line that starts a program there. */
  get through(): readonly string[] {
    const { clockSeconds = 0, tmp, tmpDirectory } = this.#options
    const variables = {
      ...(tmp !== false && { TMPDIR: tmpDirectory, XDG_RUNTIME_DIR: tmpDirectory }),
      ...(clockSeconds !== 0 && clockEnvironment(clockSeconds)),
    }
    const set = Object.entries(variables).map(([name, value]) => `${name}=${value}`)
    return [...this.#namespaces.enter(this.#options satisfies Isolation), ...(set.length > 0 ? ['env', ...set] : [])]
  }

  /** Path of a file of this host, as this process can open it. */
  path(path: string): string {
    return `/proc/${this.#namespaces.pid}/root${path}`
  }

  /** Starts a program on this host. */
  spawn(program: string, args: readonly string[] = [], options: SpawnOptions = {}): ChildProcess {
    const [command, ...rest] = [...this.through, program, ...args]
    return spawn(command!, rest, options)
  }

  /** Takes its link down, or up again. */
  link(state: 'up' | 'down'): void {
    const { pid, name } = this.#port
    network(pid, 'ip', 'link', 'set', name, state)
  }

  /** Loses every packet of one direction, silently, until `restore`. */
  lose(direction: Direction): void {
    this.#shape(direction, LOSE)
  }

  /** Limits its link in both directions, until `restore`. */
  slow(bytesPerSecond: number): void {
    for (const direction of ['in', 'out'] as const) this.#shape(direction, rateOf(bytesPerSecond))
  }

  /** Ends cuts, loss and slowness: the link is as it was made. */
  restore(): void {
    const { bytesPerSecond } = this.#options
    this.link('up')
    for (const direction of ['in', 'out'] as const) this.#shape(direction, rateOf(bytesPerSecond))
    // Addresses that could not be found while it was cut are looked for again.
    network(this.#namespaces.pid, 'ip', 'neigh', 'flush', 'dev', 'eth0')
  }

  /** Ends all of its processes at once, like a loss of power; for hosts with process ids of their own. */
  kill(): Promise<void> {
    return this.#namespaces.end()
  }

  /** Starts it again after `kill`, with nothing in it. */
  async restart(): Promise<void> {
    await this.kill()
    this.#namespaces = await Namespaces.create(this.#options)
    this.#connect()
  }

  get #port(): SwitchPort {
    if (this.#options.port === undefined) throw new Error(`${this.name} has no network of its own`)
    return this.#options.port
  }

  #connect(): void {
    const { port, bytesPerSecond, address } = this.#options
    if (port === undefined) return
    const inside = String(this.#namespaces.pid)
    // The link of the host's last life may not have ended yet.
    try {
      if (isThere(port)) network(port.pid, 'ip', 'link', 'del', port.name)
    } catch (error) {
      if (isThere(port)) throw error
    }
    network(port.pid, 'ip', 'link', 'add', port.name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', inside)
    network(port.pid, 'ip', 'link', 'set', port.name, 'master', 'sw', 'up')
    network(this.#namespaces.pid, 'ip', 'addr', 'add', `${address}/24`, 'dev', 'eth0')
    network(this.#namespaces.pid, 'ip', 'link', 'set', 'eth0', 'up')
    if (bytesPerSecond !== undefined) this.restore()
  }

  #shape(direction: Direction, discipline: readonly string[]): void {
    const [pid, device] = direction === 'in' ? [this.#port.pid, this.#port.name] : [this.#namespaces.pid, 'eth0']
    network(pid, 'tc', 'qdisc', 'replace', 'dev', device, 'root', ...discipline)
  }
}

function isThere({ pid, name }: SwitchPort): boolean {
  return readFileSync(`/proc/${pid}/net/dev`, 'utf8').includes(`${name}:`)
}

/** Queueing discipline of a rate. Bursts of 256 KiB, and a queue of a second: packets wait rather than being lost. */
function rateOf(bytesPerSecond: number | undefined): readonly string[] {
  if (bytesPerSecond === undefined) return ['pfifo', 'limit', '1000']
  const queue = Math.max(2 ** 20, bytesPerSecond)
  return ['tbf', 'rate', `${Math.round(bytesPerSecond * 8)}bit`, 'burst', String(2 ** 18), 'limit', String(queue)]
}
