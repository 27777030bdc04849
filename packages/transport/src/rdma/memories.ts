import { CkptError, type HostMemory } from '@ckpt/contract'
import type { RdmaAccess, RdmaDevice, RdmaMemoryRegion } from '@ckpt/rdma-core-bindings'
import { native } from '../addon.ts'

/** Interval for finding closed memories. */
const SWEEP_MS = 2000
/** A Buffer cannot be much larger than this. */
const VIEW_BYTES = 2 ** 30

/**
 * Registers a range of memory with every device. @throws CkptError with the device's refusal; then nothing stays registered.
 */
export async function registerRange(
  devices: readonly RdmaDevice[],
  memory: HostMemory,
  offset: number,
  bytes: number,
  access: RdmaAccess,
): Promise<RdmaMemoryRegion[]> {
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
  const results = await Promise.allSettled(devices.map((device) => native(() => device.registerMemory(views, access))))
  const regions = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
  const failed = results.find((result) => result.status === 'rejected')
  if (failed === undefined) return regions
  await Promise.all(regions.map((region) => region.close()))
  throw failed.reason
}

interface Entry {
  readonly memory: WeakRef<HostMemory>
  readonly regions: Promise<RdmaMemoryRegion[]>
}

/**
 * Local memories by their registrations with devices. Registering takes time, so it is done once per memory, on first use; a
 * registration ends soon after its memory was closed, or with the endpoint.
 */
export class LocalMemories {
  readonly #devices: readonly RdmaDevice[]
  readonly #known = new WeakMap<HostMemory, Entry>()
  readonly #entries = new Set<Entry>()
  #sweeper: NodeJS.Timeout | undefined

  constructor(devices: readonly RdmaDevice[]) {
    this.#devices = devices
  }

  /** By device. */
  async regionsOf(memory: HostMemory): Promise<readonly RdmaMemoryRegion[]> {
    this.#sweep()
    let entry = this.#known.get(memory)
    if (entry === undefined) {
      const regions = registerRange(this.#devices, memory, 0, memory.bytes, { localWrite: true })
      const added: Entry = { memory: new WeakRef(memory), regions }
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

  async #release(entry: Entry): Promise<void> {
    this.#forget(entry)
    const regions = await entry.regions.catch(() => [])
    await Promise.allSettled(regions.map((region) => region.close()))
  }

  #forget(entry: Entry): void {
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
