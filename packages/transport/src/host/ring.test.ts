import { execFileSync } from 'node:child_process'
import { closeSync, existsSync, openSync, readFileSync, readlinkSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { CkptError, type Ring } from '@ckpt/contract'
import { afterEach, describe, expect, it } from 'vitest'
import { createHostDevice } from './device.ts'
import { createHost } from './host.ts'
import { createHostRing, hostRing, removeStaleRings } from './ring.ts'

const host = createHost()
const shm = (name: string): string => `/dev/shm/${name}`
const namespace = /\d+/.exec(readlinkSync('/proc/self/ns/pid'))![0]
/** The pid of a process that has ended. */
const deadPid = (): number => Number(execFileSync(process.execPath, ['-p', 'process.pid'], { encoding: 'utf8' }))

describe('host ring', () => {
  const files: string[] = []
  afterEach(() => files.splice(0).forEach((file) => rmSync(file, { force: true })))

  it('is shared memory that others find by its handle', async () => {
    const ring = await createHostRing(host, 100_000)
    const { handle } = ring
    expect(handle).toMatchObject({ kind: 'shm', bytes: 100_000 })
    expect(handle.offset % (2 << 20)).toBe(0)
    const other = await host.openShared(handle.name)
    ring.memory.view(handle.offset, 5).write('hello')
    expect(other.view(handle.offset, 5).toString()).toBe('hello')
    expect(other.bytes).toBe(handle.offset + handle.bytes)
    await ring.close()
    await ring.close()
    expect(existsSync(shm(handle.name))).toBe(false)
    expect(other.view(handle.offset, 5).toString()).toBe('hello')
    other.close()
    expect(() => hostRing(ring)).toThrow(expect.objectContaining({ code: 'INVALID_STATE' }) as Error)
  })

  it('does not come in impossible sizes, nor from elsewhere', async () => {
    for (const bytes of [0, -1, 1.5, Number.NaN]) {
      await expect(createHostRing(host, bytes)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    }
    await expect(createHostRing(host, 2 ** 50)).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' })
    expect(() => hostRing({} as Ring)).toThrow(CkptError)
  })

  it('goes with its process, and is removed later where that was killed', async () => {
    const live = await createHostRing(host, 4096)
    const dead = deadPid()
    const stale = `ckpt-${dead}-${namespace}-0123456789abcdef`
    const foreign = [`ckpt-${dead}-1-0123456789abcdef`, `ckpt-${dead}-pool`, `other-${dead}-${namespace}-0123456789abcdef`]
    for (const name of [stale, ...foreign]) {
      files.push(shm(name))
      writeFileSync(shm(name), 'x')
    }
    // A process that does the same at this moment may be faster, so the result need not name it.
    await removeStaleRings()
    expect(existsSync(shm(stale))).toBe(false)
    for (const name of [live.handle.name, ...foreign]) expect(existsSync(shm(name)), name).toBe(true)
    await live.close()
  })

  it('of a different PID namespace is removed once it is old and nobody has it open, not before', async () => {
    const names = ['old', 'old and open', 'young'].map((what, i) => ({ what, name: `ckpt-1-1-000000000000000${i}` }))
    for (const { name } of names) {
      files.push(shm(name))
      writeFileSync(shm(name), 'x')
    }
    const hourAgo = new Date(performance.timeOrigin - 3_600_000)
    for (const { name } of names.slice(0, 2)) utimesSync(shm(name), hourAgo, hourAgo)
    const open = openSync(shm(names[1]!.name), 'r')
    try {
      await removeStaleRings()
      expect(names.filter(({ name }) => existsSync(shm(name))).map(({ what }) => what)).toEqual(['old and open', 'young'])
    } finally {
      closeSync(open)
    }
  })
})

describe('host device', () => {
  it('knows itself and its memory', async () => {
    const [one, same, other, random] = await Promise.all([
      createHostDevice({ rank: 1 }),
      createHostDevice({ rank: 1 }),
      createHostDevice({ rank: 2 }),
      createHostDevice(),
    ])
    expect(one.kind).toBe('host')
    expect(one.uuid).toMatch(/^HOST-[0-9a-f]{16}$/)
    expect(same.uuid).toBe(one.uuid)
    expect(new Set([one.uuid, other.uuid, random.uuid]).size).toBe(3)
    const { free, total } = await one.memory()
    const available = Number(/MemAvailable:\s+(\d+)/.exec(readFileSync('/proc/meminfo', 'utf8'))![1]) * 1024
    expect(free).toBeGreaterThan(0)
    expect(free).toBeLessThanOrEqual(Math.min(total, available * 1.2))
  })
})
