import { execFile, spawnSync } from 'node:child_process'
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { CkptError, memoryPlace, type HostMemory, type ProcessName, StridedCopies } from '@ckpt/contract'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createHost } from './host.ts'

const run = promisify(execFile)
const host = createHost()
let directory: string
let shm: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-foreign-'))
  shm = mkdtempSync('/dev/shm/ckpt-foreign-')
})
afterEach(() => {
  for (const path of [directory, shm]) rmSync(path, { recursive: true })
})

interface Outcome {
  readonly codes: Readonly<Record<string, number>>
  readonly wrong: readonly string[]
  readonly before: readonly number[]
  readonly after: readonly number[]
  readonly intact: boolean
}

/** This process, as others are told of it. */
function ownName(): ProcessName {
  // What follows the command's name, which may have any characters: field 3 and on.
  const fields = readFileSync('/proc/self/stat', 'latin1')
    .replace(/^.*\) /s, '')
    .split(' ')
  return { pid: process.pid, mark: `${/\d+/.exec(readlinkSync('/proc/self/ns/pid'))![0]}:${fields[19]}` }
}

/** Files that were opened for writing between the marks, by what they were, not by what they were called. */
function openedForWriting(trace: string): string[] {
  const begin = trace.indexOf('"/ckpt-trace-begins"')
  const end = trace.indexOf('"/ckpt-trace-ends"')
  expect(begin >= 0 && end > begin, 'the marks are in the trace').toBe(true)
  return trace
    .slice(begin, end)
    .split('\n')
    .filter((line) => /O_RDWR|O_WRONLY|O_CREAT|O_TRUNC|creat\(/.test(line))
    .map((line) => /= \d+<(.*)>$/.exec(line)?.[1] ?? '')
    .filter((path) => path !== '')
}

describe('memory that other processes name', () => {
  it.for([1, 2, 3])(
    'is mapped only where it is theirs and what they said: 500 random answers, seed %d',
    { timeout: 120_000 },
    async (seed, { skip }) => {
      if (spawnSync('strace', ['-V']).status !== 0) skip('there is no strace')
      const trace = join(directory, 'trace')
      const child = fileURLToPath(new URL('./foreign.child.ts', import.meta.url))
      const node = [process.execPath, '--conditions=@ckpt/source', '--import', 'tsx', child, directory, String(seed), '500']
      const calls = 'open,openat,openat2,creat,access,faccessat,faccessat2'
      const { stdout } = await run('strace', ['-f', '-y', '-o', trace, '-e', `trace=${calls}`, ...node], { timeout: 110_000 })
      const outcome = JSON.parse(stdout) as Outcome
      expect(outcome.wrong).toEqual([])
      expect(outcome.intact).toBe(true)
      // No descriptor and no mapping is left of any.
      // The runtime may have opened or closed a descriptor of its own meanwhile (Node 24 opened one).
      expect(outcome.after[0]).toBeLessThanOrEqual(outcome.before[0]! + 1)
      expect(outcome.after[1]).toBeLessThanOrEqual(outcome.before[1]!)
      const { mapped = 0, honest = 0, ...refused } = outcome.codes
      expect(honest).toBeGreaterThan(10)
      expect(mapped).toBeGreaterThanOrEqual(honest)
      expect(Object.keys(refused).sort()).toEqual(['MEMORY_CHANGED', 'MEMORY_REFUSED'])
      const written = openedForWriting(readFileSync(trace, 'utf8'))
      expect(written.length).toBeGreaterThan(10)
      expect(written.filter((path) => !/^\/(dev\/shm\/|memfd:ckpt|proc\/\d+\/task\/\d+\/comm$)/.test(path))).toEqual([])
    },
  )

  it('is opened at no other path', () => {
    const process_ = { pid: 7, mark: '1:2' }
    expect(memoryPlace('/dev/shm/a/b', process_, 'x')).toEqual({ kind: 'shm', path: 'a/b' })
    expect(memoryPlace('/proc/7/fd/3', process_, 'x')).toEqual({ kind: 'descriptor', process: process_, descriptor: 3 })
    for (const path of [
      '/proc/8/fd/3',
      '/proc/7/fd/3/..',
      '/proc/07/fd/3',
      '/proc/self/fd/3',
      '/proc/7/task/7/fd/3',
      '/dev/shm/..',
      '/tmp/a',
    ]) {
      expect(() => memoryPlace(path, process_, 'storage 3'), path).toThrow(
        expect.objectContaining({ code: 'MEMORY_REFUSED', message: expect.stringContaining('storage 3') as string }) as Error,
      )
    }
  })
})

describe('a file that is used in place', () => {
  const bytes = 3 * 2 ** 20
  const changes: Record<string, (path: string) => void> = {
    truncated: (path) => truncateSync(path, 4097),
    emptied: (path) => truncateSync(path, 0),
    overwritten: (path) => {
      const fd = openSync(path, 'r+')
      writeSync(fd, Buffer.alloc(10, 9), 0, 10, 2 ** 20)
      closeSync(fd)
    },
    'made anew': (path) => writeFileSync(path, Buffer.alloc(bytes, 2)),
  }
  const replace = (path: string): void => {
    writeFileSync(`${path}.new`, Buffer.alloc(bytes, 2))
    renameSync(`${path}.new`, path)
  }
  const copied = async (memory: HostMemory): Promise<Buffer> => {
    const target = await host.allocate({ bytes, lock: false })
    await host.copy([memory, target], new StridedCopies(Float64Array.of(0, 0, bytes, 1, 0, bytes, bytes, 1)))
    return target.view(0, bytes)
  }

  it.for(Object.keys(changes))('%s: it is said by name, and the process goes on', async (how) => {
    // Longer than names of links in /proc are as a rule.
    const path = join(shm, 'file'.repeat(60))
    writeFileSync(path, Buffer.alloc(bytes, 1))
    const own = await host.mapFile(path, { lock: false })
    const { device, inode, modified } = own.identity!
    const identity = { device, inode, bytes, modified: modified! }
    const place = memoryPlace(path, undefined, 'segment 0')
    const peer = await host.openForeign({ place, identity }, { what: 'segment 0 of rank 1' })
    // By the owner's descriptor: the path is another one, the file's name the same.
    const descriptor = memoryPlace(`/proc/${process.pid}/fd/${own.identity!.descriptor}`, ownName(), 'segment 0')
    const numbered = await host.openForeign({ place: descriptor, identity }, { what: 'segment 0 of rank 1' })
    for (const memory of [own, peer, numbered]) memory.assertIntact!()
    changes[how]!(path)
    for (const memory of [own, peer, numbered]) {
      // Pages that are gone would end the process where nobody watches.
      await copied(memory)
      expect(() => memory.assertIntact!()).toThrow(
        expect.objectContaining({ code: 'MEMORY_CHANGED', fields: expect.objectContaining({ file: path }) as object }) as Error,
      )
    }
    const again = host.openForeign({ place, identity }, { what: 'segment 0 of rank 1' })
    await expect(again).rejects.toMatchObject({ code: 'MEMORY_CHANGED', fields: { file: path } })
    const renumbered = host.openForeign({ place: descriptor, identity }, { what: 'segment 0 of rank 1' })
    await expect(renumbered).rejects.toMatchObject({ code: 'MEMORY_CHANGED', fields: { file: path } })
    for (const memory of [own, peer, numbered]) memory.close()
  })

  it.for(['replaced', 'removed'])(
    '%s: who has it mapped keeps the old one whole, and nobody maps the new one for it',
    async (how) => {
      const path = join(shm, 'file')
      writeFileSync(path, Buffer.alloc(bytes, 1))
      const own = await host.mapFile(path, { lock: false })
      const { device, inode, modified } = own.identity!
      if (how === 'replaced') replace(path)
      else rmSync(path)
      own.assertIntact!()
      expect((await copied(own)).equals(Buffer.alloc(bytes, 1))).toBe(true)
      const opening = host.openForeign(
        { place: memoryPlace(path, undefined, 'x'), identity: { device, inode, bytes, modified: modified! } },
        { what: 'segment 0 of rank 1' },
      )
      const error = await opening.then(
        () => undefined,
        (thrown: unknown) => thrown,
      )
      expect(CkptError.is(error, 'MEMORY_CHANGED') && error.retryable).toBe(true)
      expect((error as CkptError).fields.file).toBe(path)
      expect((error as CkptError).message).toContain('segment 0 of rank 1')
      own.close()
    },
  )

  it('is opened for reading alone', async () => {
    const path = join(shm, 'file')
    writeFileSync(path, Buffer.alloc(4096, 1))
    const own = await host.mapFile(path, { lock: false })
    const flags = readFileSync(`/proc/self/fdinfo/${own.identity!.descriptor}`, 'utf8')
    expect(Number.parseInt(/flags:\s+(\d+)/.exec(flags)![1]!, 8) & 3).toBe(0)
    own.view(0, 10).fill(7)
    expect(readFileSync(path).equals(Buffer.alloc(4096, 1))).toBe(true)
    own.close()
  })
})
