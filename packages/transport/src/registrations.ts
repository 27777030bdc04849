import { CkptError, type HostMemory } from '@ckpt/contract'

/** Interval for finding closed memories. */
const SWEEP_MS = 2000
/** A Buffer cannot be much larger than this. */
const VIEW_BYTES = 2 ** 30

/** Returns a range of memory as consecutive Buffers. @throws CkptError `INVALID_ARGUMENT` if it is not a range of the memory. */
export function viewsOf(memory: HostMemory, offset: number, bytes: number): Buffer[] {
  if (!(
    Number.isSafeInteger(offset) &&
    Number.isSafeInteger(bytes) &&
    offset >= 0 &&
    bytes > 0 &&
    offset + bytes <= memory.bytes
  )) {
    const text = `bytes ${offset} + ${bytes} are not a range of a memory of ${memory.bytes} bytes`
    throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'memory' } })
  }
  const views: Buffer[] = []
  for (let at = 0; at < bytes; at += VIEW_BYTES) views.push(memory.view(offset + at, Math.min(VIEW_BYTES, bytes - at)))
  return views
}

interface Registration {
  close(): Promise<void>
}

interface Entry<Region> {
  readonly memory: WeakRef<HostMemory>
  readonly regions: Promise<readonly Region[]>
}

/**
 * Local memories by their registrations with what moves their bytes. Registering takes time, so it is done once per memory, on first use; a
 * registration ends soon after its memory was closed, or with the endpoint.
 */
export class LocalMemories<Region extends Registration> {
  readonly #register: (memory: HostMemory) => Promise<readonly Region[]>
  readonly #known = new WeakMap<HostMemory, Entry<Region>>()
  readonly #entries = new Set<Entry<Region>>()
  #sweeper: NodeJS.Timeout | undefined

  constructor(register: (memory: HostMemory) => Promise<readonly Region[]>) {
    this.#register = register
  }

  async regionsOf(memory: HostMemory): Promise<readonly Region[]> {
    this.#sweep()
    let entry = this.#known.get(memory)
    if (entry === undefined) {
      const regions = this.#register(memory)
      const added: Entry<Region> = { memory: new WeakRef(memory), regions }
      entry = added
      this.#known.set(memory, added)
      this.#entries.add(added)
      this.#sweeper ??= setInterval(() => this.#sweep(), SWEEP_MS).unref()
      // Another attempt may find what this one lacked.
      regions.catch(() => this.#forget(added))
    }
    return entry.regions
  }

  async close(): Promise<void> {
    clearInterval(this.#sweeper)
    await Promise.all([...this.#entries].map((entry) => this.#release(entry)))
  }

  #sweep(): void {
    for (const entry of this.#entries) {
      // Closed memories no longer belong to the caller, but the registration still pins them.
      if (isClosed(entry.memory.deref())) void this.#release(entry)
    }
  }

  async #release(entry: Entry<Region>): Promise<void> {
    this.#forget(entry)
    const regions: readonly Region[] = await entry.regions.catch(() => [])
    await Promise.allSettled(regions.map((region) => region.close()))
  }

  #forget(entry: Entry<Region>): void {
    this.#entries.delete(entry)
    const memory = entry.memory.deref()
    if (memory !== undefined && this.#known.get(memory) === entry) this.#known.delete(memory)
  }
}

function isClosed(memory: HostMemory | undefined): boolean {
  try {
    memory?.view(0, 1)
    return memory === undefined
  } catch {
    return true
  }
}
