import { existsSync, watch, type FSWatcher } from 'node:fs'
import { CkptError, type Host, type HostMemory, type RingHandle } from '@ckpt/contract'

const SHM = '/dev/shm'

type ShmRing = RingHandle & { readonly kind: 'shm' }

/**
 * The last mapped ring, which stays mapped as long as its rank keeps it: mapping and touching all of it again costs more than a
 * tenth of an update. The rank releases a ring by removing its name, which is watched.
 */
export class KeptRing {
  readonly #host: Host
  #kept: { readonly name: string; readonly memory: HostMemory; readonly watcher: FSWatcher } | undefined
  #inUse = false

  constructor(host: Host) {
    this.#host = host
  }

  /** Maps the ring, or returns the existing mapping. Pair with {@link KeptRing.release}. */
  async use({ name, device, inode, size, offset, bytes }: ShmRing): Promise<HostMemory> {
    if (this.#kept?.name !== name || !existsSync(`${SHM}/${name}`)) {
      this.#drop()
      const memory =
        device === undefined || inode === undefined || size === undefined
          ? await this.#host.openShared(name)
          : await this.#host.openForeign(
              { place: { kind: 'shm', path: name }, identity: { device, inode, bytes: size } },
              { what: 'the ring of the rank' },
            )
      try {
        if (offset + bytes > memory.bytes) {
          const text = `ring ${name} ends at ${offset + bytes}, its memory at ${memory.bytes}`
          throw new CkptError('MEMORY_REFUSED', text, { fields: { field: 'ring' } })
        }
        this.#kept = { name, memory, watcher: this.#watch(name) }
      } catch (error) {
        memory.close()
        throw error
      }
    }
    this.#inUse = true
    return this.#kept.memory
  }

  /** Marks the update as over: from now on the mapping ends with the ring's name. */
  release(): void {
    this.#inUse = false
    if (this.#kept && !existsSync(`${SHM}/${this.#kept.name}`)) this.#drop()
  }

  #watch(name: string): FSWatcher {
    const watcher = watch(`${SHM}/${name}`, { persistent: false }, () => {
      if (this.#kept?.name === name && !this.#inUse) this.release()
    })
    // If the name cannot be watched any more, it is checked before the next use.
    watcher.on('error', () => undefined)
    return watcher
  }

  #drop(): void {
    this.#kept?.watcher.close()
    this.#kept?.memory.close()
    this.#kept = undefined
  }
}
