import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Host, HostMemory } from '@ckpt/contract'
import { writeFile } from '@ckpt/safetensors'
import { createHost } from '@ckpt/transport'
import { expect, it } from 'vitest'
import { CheckpointStore, type RegisterOptions } from './checkpoint-store.ts'

const MIB = 1024 * 1024
const BYTES = 24 * MIB

interface Usage {
  readonly descriptors: number
  readonly sharedMappings: number
  /**
   * Without the heaps that glibc reserves for each thread (64 MiB each; their number grows with the maximum of concurrent
   * threads).
   */
  readonly virtualMiB: number
  readonly lockedMiB: number
}

const ARENA_BYTES = 64 * MIB

/** MiB of address space in glibc's arenas: pairs of adjacent mappings, one written to and one reserved. */
function arenasMiB(maps: string): number {
  const ranges = maps
    .trim()
    .split('\n')
    .map((line) => /^(\w+)-(\w+) (\S+) \S+ \S+ (\d+)/.exec(line)!)
    .map(([, from, to, access, inode]) => ({
      from: parseInt(from!, 16),
      to: parseInt(to!, 16),
      access,
      anonymous: inode === '0',
    }))
  const arenas = ranges.filter((range, i) => {
    const reserved = ranges[i + 1]
    return (
      range.anonymous &&
      range.access === 'rw-p' &&
      range.from % ARENA_BYTES === 0 &&
      reserved?.access === '---p' &&
      reserved.from === range.to &&
      reserved.to === range.from + ARENA_BYTES
    )
  })
  return (arenas.length * ARENA_BYTES) / MIB
}

async function usage(): Promise<Usage> {
  ;(globalThis as { gc?: () => void }).gc?.()
  const status = await readFile('/proc/self/status', 'utf8')
  const maps = await readFile('/proc/self/maps', 'utf8')
  const mib = (field: string) => Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1] ?? NaN) / 1024
  return {
    descriptors: (await readdir('/proc/self/fd')).length,
    sharedMappings: maps.split('\n').filter((line) => line.includes('/dev/shm/ckpt-leaks')).length,
    virtualMiB: mib('VmSize') - arenasMiB(maps),
    lockedMiB: mib('VmLck'),
  }
}

/**
 * The real host, but it keeps every memory that it ever created: memory that is not released is not garbage-collected either,
 * and is detected.
 */
function hoarding(host: Host): Host {
  const kept: HostMemory[] = []
  return new Proxy(host, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key)
      if (typeof value !== 'function') return value
      const bound = value.bind(target) as (...values: unknown[]) => unknown
      if (key !== 'allocate' && key !== 'mapFile' && key !== 'openShared') return bound
      return async (...values: unknown[]) => {
        const memory = (await bound(...values)) as HostMemory
        kept.push(memory)
        return memory
      }
    },
  })
}

it('50 registrations, good and bad, leave no memory, mapping or file descriptor behind', async () => {
  const host = hoarding(createHost())
  const store = new CheckpointStore(host, { segmentBytes: 8 * MIB })
  const disk = await mkdtemp(join(tmpdir(), 'ckpt-leaks-'))
  const shm = await mkdtemp('/dev/shm/ckpt-leaks-')
  try {
    const tensors = ['a', 'b', 'c'].map((name, i) => ({
      name,
      dtype: 'U8' as const,
      shape: [BYTES / 3],
      data: Buffer.alloc(BYTES / 3, i + 1),
    }))
    const [onDisk, inShm] = [join(disk, 'model.safetensors'), join(shm, 'model.safetensors')]
    await writeFile(onDisk, tensors)
    await writeFile(inShm, tensors)
    const cycle = async (i: number) => {
      const options: RegisterOptions = i % 2 === 0 ? { pool: 'shared' } : {}
      await store.register('files', { files: [onDisk] }, options)
      await store.register('place', { files: [inShm] }, { inPlace: true })
      await store.register('tensors', { tensors }, options)
      await expect(store.register('bad', { files: [onDisk, join(disk, 'none')] }, options)).rejects.toThrow('none')
      const lease = store.lease('files')
      expect(lease.segments[0]!.view(0, 1)[0]).toBe(1)
      store.unregister('files', { force: true })
      lease.release()
      store.unregister('place')
      store.unregister('tensors')
    }
    for (let i = 0; i < 4; i++) await cycle(i)
    const before = await usage()
    for (let i = 0; i < 50; i++) await cycle(i)
    const after = await usage()
    // A leak of one per cycle would be 50; the test runner itself opens and closes one from time to time.
    expect(after.descriptors - before.descriptors).toBeLessThan(10)
    expect([before.sharedMappings, after.sharedMappings]).toEqual([0, 0])
    expect(after.lockedMiB).toBe(before.lockedMiB)
    // A leak of one registration per cycle would be 1200 MiB; thread stacks and other mappings may account for a little.
    expect(after.virtualMiB - before.virtualMiB).toBeLessThan(50)
    expect(store.poolStats).toMatchObject({ blocks: 6, usedBlocks: 0, allocations: 6 })

    await store.close()
    const closed = await usage()
    expect(before.lockedMiB === 0 || closed.lockedMiB < before.lockedMiB).toBe(true)
  } finally {
    await store.close()
    await rm(disk, { recursive: true, force: true })
    await rm(shm, { recursive: true, force: true })
  }
})
