import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { CkptError, type Host, type HostMemory } from '@ckpt/contract'
import { sharedName } from './ring.ts'

const NONCE_BYTES = 32

/**
 * Data with which a process can be found by those that share memory with it, and that shows if they look at the right place.
 */
export interface Beacon {
  /** Name in /dev/shm. */
  readonly name: string
  readonly device: string
  readonly inode: string
  readonly bytes: number
  /** The kernel's own id of the current boot; empty if it does not report one. */
  readonly boot: string
}

/**
 * Proves that processes share /dev/shm, on one machine and as one user: each leaves a nonce in shared memory that only its user
 * may open, and proves that it has read another's. A host's name proves nothing: containers share it, and anyone may claim it.
 */
export class Presence {
  readonly beacon: Beacon
  readonly #host: Host
  readonly #memory: HostMemory
  readonly #nonce: Buffer

  private constructor(host: Host, memory: HostMemory, nonce: Buffer) {
    const { device, inode, bytes } = memory.identity!
    this.beacon = { name: memory.name!, device, inode, bytes, boot: bootId() }
    this.#host = host
    this.#memory = memory
    this.#nonce = nonce
  }

  /**
   * Leaves a beacon until {@link Presence.close}. @throws CkptError `OUT_OF_MEMORY`, `INVALID_ARGUMENT` if /dev/shm cannot be
   * used.
   */
  static async open(host: Host): Promise<Presence> {
    const nonce = randomBytes(NONCE_BYTES)
    const memory = await host.createShared(sharedName('near-'), { bytes: NONCE_BYTES, lock: false })
    memory.view(0, NONCE_BYTES).set(nonce)
    return new Presence(host, memory, nonce)
  }

  /** Returns the proof that this process reads the beacon of `peer`; null if it does not. */
  async proveTo(peer: Beacon): Promise<string | null> {
    if (peer.boot !== this.beacon.boot || peer.bytes !== NONCE_BYTES) return null
    const { name, device, inode, bytes } = peer
    let memory: HostMemory
    try {
      const place = { kind: 'shm', path: name } as const
      memory = await this.#host.openForeign({ place, identity: { device, inode, bytes } }, { what: 'a beacon' })
    } catch (error) {
      if (CkptError.is(error)) return null
      throw error
    }
    try {
      return proof(memory.view(0, NONCE_BYTES), this.beacon, peer)
    } finally {
      memory.close()
    }
  }

  /** Returns true if only the process of beacon `peer`, having read this one's, could give `answer`. */
  proves(answer: string | null, peer: Beacon): boolean {
    if (answer === null) return false
    const given = Buffer.from(answer)
    const expected = Buffer.from(proof(this.#nonce, peer, this.beacon))
    return given.length === expected.length && timingSafeEqual(given, expected)
  }

  close(): void {
    try {
      this.#memory.unlink()
    } finally {
      this.#memory.close()
    }
  }
}

/** Bound to both ends, so it is useless to anyone else. */
function proof(nonce: Uint8Array, by: Beacon, to: Beacon): string {
  const fields = ({ name, device, inode, bytes, boot }: Beacon) => [name, device, inode, bytes, boot]
  return createHmac('sha256', nonce)
    .update(JSON.stringify([fields(by), fields(to)]))
    .digest('base64')
}

/** Returns the id of the current boot of the kernel, the same for all containers of one machine; empty if it is not reported. */
export function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  } catch {
    return ''
  }
}
