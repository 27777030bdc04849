import { cpus } from 'node:os'
import type { Host, HostMemory } from '@ckpt/contract'
import type { Ceilings } from '../result.ts'

const REPEAT = 5

/**
 * The copy ceiling of this machine: the best of several copies between two buffers that no cache holds, all cores at work.
 */
export async function copyCeiling(host: Host, bytes = 768 * 2 ** 20): Promise<number> {
  const memories: HostMemory[] = []
  try {
    for (let i = 0; i < 2; i++) memories.push(await host.allocate({ bytes, lock: false }))
    await host.fill(memories[0]!, { seed: 1n })
    const copy = Float64Array.of(0, 0, bytes, 1, 0, bytes, bytes, 1)
    let best = 0
    for (let i = 0; i < REPEAT; i++) {
      const { milliseconds } = await host.copy(memories, copy, { threads: cpus().length })
      best = Math.max(best, (bytes / milliseconds) * 1000)
    }
    return best
  } finally {
    for (const memory of memories) memory.close()
  }
}

/** The rate at which warm files can be read into memory that was written before: the best of several reads, all cores at work. */
export async function readCeiling(host: Host, files: readonly { path: string; bytes: number }[]): Promise<number> {
  const total = files.reduce((sum, file) => sum + file.bytes, 0)
  const memory = await host.allocate({ bytes: total, lock: false })
  try {
    let offset = 0
    const reads = files.map(({ bytes }, file) => {
      const read = { file, fileOffset: 0, memory: 0, memoryOffset: offset, bytes }
      offset += bytes
      return read
    })
    let best = 0
    for (let i = 0; i < REPEAT; i++) {
      const { milliseconds } = await host.read({
        files: files.map(({ path }) => path),
        memories: [memory],
        reads,
        threads: cpus().length,
      })
      best = Math.max(best, (total / milliseconds) * 1000)
    }
    return best
  } finally {
    memory.close()
  }
}

/** Both ceilings. */
export async function measureCeilings(host: Host, files: readonly { path: string; bytes: number }[]): Promise<Ceilings> {
  return { copyBytesPerSecond: await copyCeiling(host), readBytesPerSecond: await readCeiling(host, files) }
}
