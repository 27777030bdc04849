import { createHash, randomBytes } from 'node:crypto'
import { statfs } from 'node:fs/promises'
import { hostname, totalmem } from 'node:os'
import { CkptError, type Collective, type CollectiveOptions, type Device, type Host, type Ring } from '@ckpt/contract'
import { hostAddon } from '../addon.ts'
import { HostCollective } from './collective.ts'
import { HostDirect } from './direct.ts'
import { createHost } from './host.ts'
import { createHostRing, removeStaleRings, type HostRing } from './ring.ts'

/** Options of a host device. */
export interface HostDeviceOptions {
  /** Rank of the device: the same rank on the same machine gets the same UUID. Without it the UUID is random. */
  readonly rank?: number
  /** Threads that touch the pages of new rings (default: the number of cores, at most 8). */
  readonly threads?: number
}

/**
 * Creates the device in host memory: rings in /dev/shm, collectives among the processes of one machine. It also removes rings
 * of killed processes of this user from /dev/shm.
 *
 * @throws CkptError `ADDON_UNAVAILABLE` naming what is missing.
 */
export async function createHostDevice(options: HostDeviceOptions = {}): Promise<Device> {
  const host = createHost()
  await removeStaleRings()
  return new HostDevice(host, options)
}

class HostDevice implements Device {
  readonly kind = 'host'
  // Small buckets keep a worker busy while others move; below this size the messages for each were measured to cost more than
  // that gains.
  readonly preferred = { bucketBytes: 32 * 2 ** 20, chunkBytes: 2 * 2 ** 20 }
  readonly uuid: string
  readonly host: Host
  readonly direct: HostDirect
  readonly #threads: number | undefined
  readonly #rings = new Set<HostRing>()
  readonly #collectives = new Set<HostCollective>()
  #closed = false

  constructor(host: Host, { rank, threads }: HostDeviceOptions) {
    this.host = host
    this.#threads = threads
    this.direct = new HostDirect(host, threads)
    const id =
      rank === undefined ? randomBytes(8).toString('hex') : createHash('sha256').update(`${hostname()}\n${rank}`).digest('hex')
    this.uuid = `HOST-${id.slice(0, 16)}`
  }

  async memory(): Promise<{ free: number; total: number }> {
    const shm = await statfs('/dev/shm').catch((error: unknown) => {
      throw CkptError.from(error, 'UNSUPPORTED', 'rings need /dev/shm')
    })
    const limits = hostAddon().memoryLimits()
    return {
      free: Math.min(...limits.map(({ available }) => available), shm.bavail * shm.bsize),
      total: Math.min(...limits.map(({ bytes }) => bytes), totalmem(), shm.blocks * shm.bsize),
    }
  }

  async createRing(bytes: number): Promise<Ring> {
    this.#assertOpen()
    const ring = await createHostRing(this.host, bytes, this.#threads)
    for (const other of this.#rings) if (other.closed) this.#rings.delete(other)
    this.#rings.add(ring)
    return ring
  }

  createCollective(options: CollectiveOptions): Promise<Collective> {
    return new Promise((resolve) => {
      this.#assertOpen()
      const collective = new HostCollective(this.host, options)
      for (const other of this.#collectives) if (other.closed) this.#collectives.delete(other)
      this.#collectives.add(collective)
      resolve(collective)
    })
  }

  /** Closes everything open that was created from this device, collectives first. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#collectives].map((collective) => collective.close()))
    await Promise.all([...this.#rings].map((ring) => ring.close()))
    this.#collectives.clear()
    this.#rings.clear()
  }

  #assertOpen(): void {
    if (this.#closed) throw new CkptError('INVALID_STATE', `device ${this.uuid} is closed`)
  }
}
