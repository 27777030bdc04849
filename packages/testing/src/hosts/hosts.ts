import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { NamespaceHost } from './host.ts'
import { Namespaces, network, type Isolation } from './namespaces.ts'

/** What differs between hosts. */
export interface HostSettings extends Isolation {
  /** Host name (default: its own, or `ckpt-host` without a UTS namespace). */
  readonly hostname?: string
  /** Seconds by which its wall clock is ahead (default 0); needs libfaketime. */
  readonly clockSeconds?: number
}

export interface HostsOptions extends Isolation {
  readonly count: number
  /** Every host's link to the switch. */
  readonly link?: {
    /** Rate in each direction, in bytes per second (default: as fast as it can be). */
    readonly bytesPerSecond?: number
  }
  /** Size of each host's `/dev/shm` in bytes (default 512 MiB). */
  readonly shmBytes?: number
  /** Settings of one host, over those of all. */
  readonly each?: (index: number) => HostSettings
}

/** Addresses for tests of interconnects (RFC 2544). The switch is in a network of its own, so they may be used again. */
const NETWORK = '198.18.78'

/**
 * "Hosts" out of namespaces, connected by a switch. Needs root, util-linux and iproute2; {@link hostsProblem} says what is
 * missing.
 */
export class Hosts implements AsyncDisposable {
  readonly hosts: readonly NamespaceHost[]
  readonly #directory: string
  readonly #switch: Namespaces | undefined

  private constructor(hosts: readonly NamespaceHost[], directory: string, networkSwitch: Namespaces | undefined) {
    this.hosts = hosts
    this.#directory = directory
    this.#switch = networkSwitch
  }

  /** @throws Error with the reason if this machine does not allow them. */
  static async create({ count, link = {}, shmBytes = 2 ** 29, each, ...common }: HostsOptions): Promise<Hosts> {
    const directory = mkdtempSync(join(tmpdir(), 'ckpt-host-'))
    const made: NamespaceHost[] = []
    let hub: Namespaces | undefined
    try {
      const settings = Array.from({ length: count }, (_, index): HostSettings => ({ ...common, ...each?.(index) }))
      if (settings.some(({ net }) => net !== false)) hub = await createSwitch(directory)
      for (const [index, one] of settings.entries()) {
        made.push(
          await NamespaceHost.start({
            hostname: one.name === false ? 'ckpt-host' : `ckpt-host-${index}`,
            ...one,
            tmpDirectory: directory,
            shmBytes,
            address: one.net === false ? '127.0.0.1' : `${NETWORK}.${index + 1}`,
            ...(one.net !== false && { port: { pid: hub!.pid, name: `port${index}` } }),
            ...link,
          }),
        )
      }
      return new Hosts(made, directory, hub)
    } catch (error) {
      await new Hosts(made, directory, hub)[Symbol.asyncDispose]()
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.hosts.map((host) => host.kill()))
    await this.#switch?.end()
    rmSync(this.#directory, { recursive: true, force: true })
  }
}

async function createSwitch(tmpDirectory: string): Promise<Namespaces> {
  const only = { shm: false, tmp: false, ipc: false, pid: false, name: false, hostname: '', tmpDirectory, shmBytes: 0 }
  const made = await Namespaces.create(only)
  try {
    network(made.pid, 'ip', 'link', 'add', 'sw', 'type', 'bridge')
    network(made.pid, 'ip', 'link', 'set', 'sw', 'up')
    return made
  } catch (error) {
    await made.end()
    throw error
  }
}
