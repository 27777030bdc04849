import { CkptError, type Host, type HostMemory } from '@ckpt/contract'
import { alignUp } from '@ckpt/utils'

/** Blocks are allocated in whole huge pages. */
const BLOCK_GRANULE = 2 * 1024 * 1024
/** A block this many times larger than needed is left for a larger need. */
const OVERSIZE = 2

/** Memory that must be released exactly once. */
export interface Block {
  readonly memory: HostMemory
  /** Releases the memory; calling it again does nothing. */
  release(): void
}

export interface BlockPoolOptions {
  /** Lock all blocks. */
  readonly lock: boolean
  /** Other ranks of this host can map the blocks (default false). */
  readonly shareable?: boolean
  /** Called before free blocks may be returned to the system, when the pool grows. */
  readonly beforeFree?: () => Promise<void>
}

/** Contents of a pool, in bytes and blocks. */
export interface PoolStats {
  readonly blocks: number
  readonly bytes: number
  readonly usedBlocks: number
  readonly usedBytes: number
  /** Blocks allocated from the host over the pool's life. */
  readonly allocations: number
}

/**
 * Allocates one block per size, all or none. Without `prefault` the memory is not touched first: the reads that follow touch
 * it.
 *
 * @throws CkptError `OUT_OF_MEMORY`.
 */
export async function allocateAll(
  host: Host,
  sizes: readonly number[],
  options: { readonly lock: boolean; readonly prefault: boolean; readonly shareable?: boolean },
): Promise<HostMemory[]> {
  const total = sizes.reduce((sum, bytes) => sum + bytes, 0)
  const available = host.availableBytes?.() ?? Infinity
  if (total > available) {
    const limit = host.memoryLimits?.()[0]
    const why = limit === undefined ? '' : `: ${limit.text}`
    throw new CkptError('OUT_OF_MEMORY', `${total} bytes of memory are needed, but only ${available} are available${why}`, {
      ...(limit && { fields: { file: limit.file } }),
    })
  }
  const results = await Promise.allSettled(sizes.map((bytes) => host.allocate({ bytes, ...options, hugePages: true })))
  const failed = results.find((result) => result.status === 'rejected')
  const memories = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
  if (failed === undefined) return memories
  for (const memory of memories) memory.close()
  throw CkptError.from(failed.reason, 'OUT_OF_MEMORY')
}

/**
 * Reusable blocks of memory: touched and locked memory stays so, and the next checkpoint is written into it at the speed of a
 * copy.
 *
 * A need is met by the smallest free block that is large enough and not over {@link OVERSIZE} times as large. Needs without
 * such a block are allocated, after as many bytes of smaller free blocks were freed: the pool grows with its needs, but does
 * not hoard. If the allocation fails, a larger free block is used.
 */
export class BlockPool {
  readonly #host: Host
  readonly #lock: boolean
  readonly #shareable: boolean
  readonly #beforeFree: (() => Promise<void>) | undefined
  readonly #free = new Set<HostMemory>()
  readonly #used = new Set<HostMemory>()
  #allocations = 0

  constructor(host: Host, { lock, shareable = false, beforeFree }: BlockPoolOptions) {
    this.#host = host
    this.#shareable = shareable
    this.#lock = lock
    this.#beforeFree = beforeFree
  }

  get stats(): PoolStats {
    const bytes = (blocks: ReadonlySet<HostMemory>) => [...blocks].reduce((sum, block) => sum + block.bytes, 0)
    return {
      blocks: this.#free.size + this.#used.size,
      bytes: bytes(this.#free) + bytes(this.#used),
      usedBlocks: this.#used.size,
      usedBytes: bytes(this.#used),
      allocations: this.#allocations,
    }
  }

  /**
   * Returns one block per size, in order, each at least as large; all or none. New ones are touched first only with `prefault`.
   *
   * @throws CkptError `OUT_OF_MEMORY`.
   */
  async acquire(sizes: readonly number[], prefault: boolean): Promise<Block[]> {
    const taken = new Array<HostMemory | undefined>(sizes.length)
    // Largest first, and all before any is freed or allocated, so that needs do not take each other's best fit.
    const order = sizes.map((_, i) => i).sort((a, b) => sizes[b]! - sizes[a]!)
    for (const i of order) taken[i] = this.#take(sizes[i]!, sizes[i]! * OVERSIZE)
    const missing = order.filter((i) => taken[i] === undefined)
    try {
      if (missing.length > 0 && this.#free.size > 0) await this.#beforeFree?.()
      for (const i of missing) this.#makeRoom(sizes[i]!)
      const fresh = await this.#grow(
        missing.map((i) => sizes[i]!),
        prefault,
      )
      missing.forEach((i, k) => (taken[i] = fresh[k]))
    } catch (error) {
      for (const memory of taken) if (memory !== undefined) this.#giveBack(memory)
      throw error
    }
    return taken.map((memory) => this.#block(memory!))
  }

  /**
   * Frees unused blocks; with `force` also those in use, as soon as each is released.
   *
   * @returns the number of blocks still in use.
   */
  release(options: { force: boolean }): number {
    for (const memory of this.#free) memory.close()
    this.#free.clear()
    const inUse = this.#used.size
    // A block that the pool no longer knows is closed when it is released.
    if (options.force) this.#used.clear()
    return inUse
  }

  #take(bytes: number, most: number): HostMemory | undefined {
    let best: HostMemory | undefined
    for (const block of this.#free) {
      if (block.bytes >= bytes && block.bytes <= Math.max(most, BLOCK_GRANULE) && block.bytes < (best?.bytes ?? Infinity))
        best = block
    }
    if (best !== undefined) {
      this.#free.delete(best)
      this.#used.add(best)
    }
    return best
  }

  #makeRoom(bytes: number): void {
    let freed = 0
    const smaller = [...this.#free].filter((block) => block.bytes < bytes).sort((a, b) => b.bytes - a.bytes)
    for (const block of smaller) {
      if (freed >= bytes) break
      freed += block.bytes
      this.#free.delete(block)
      block.close()
    }
  }

  async #grow(sizes: readonly number[], prefault: boolean): Promise<HostMemory[]> {
    if (sizes.length === 0) return []
    try {
      const rounded = sizes.map((bytes) => alignUp(bytes, BLOCK_GRANULE))
      const fresh = await allocateAll(this.#host, rounded, { lock: this.#lock, prefault, shareable: this.#shareable })
      this.#allocations += fresh.length
      for (const memory of fresh) this.#used.add(memory)
      return fresh
    } catch (error) {
      if (!CkptError.is(error, 'OUT_OF_MEMORY')) throw error
      const larger = sizes.map((bytes) => this.#take(bytes, Infinity))
      if (larger.every((memory) => memory !== undefined)) return larger
      for (const memory of larger) if (memory !== undefined) this.#giveBack(memory)
      throw error
    }
  }

  #block(memory: HostMemory): Block {
    let released = false
    return {
      memory,
      release: () => {
        if (!released) this.#giveBack(memory)
        released = true
      },
    }
  }

  #giveBack(memory: HostMemory): void {
    if (this.#used.delete(memory)) this.#free.add(memory)
    else memory.close()
  }
}
