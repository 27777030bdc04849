import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  truncateSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { generateCheckpoint, type GeneratedCheckpoint } from './checkpoint/generate.ts'
import { Cluster } from './cluster/cluster.ts'
import type { RankPoint } from './cluster/hold.ts'
import type { RankUpdate } from './cluster/rank-protocol.ts'

// Files that are used in place change at every point of an update. What is committed is the old version whole, checked byte by byte against files
// that nobody touches; everything else is an error that can be retried and names the file or the tensor.

const BYTES = 12 * 2 ** 20
const RANKS = 2
const host = createHost()
let versions: GeneratedCheckpoint[]
let shm: string
beforeAll(async () => {
  shm = mkdtempSync('/dev/shm/ckpt-in-place-')
  const made = [1n, 1_000_000n].map((seed, i) => generateCheckpoint(host, model('qwen3-30b-a3b'), BYTES, seed, `in-place-${i}`))
  versions = await Promise.all(made)
})
afterAll(() => {
  for (const version of versions) version[Symbol.dispose]()
  rmSync(shm, { recursive: true })
})

/** Puts a version's files under the names that are registered, as trainers do: written beside and renamed. */
function put(version: number): void {
  const { directory } = versions[version]!
  for (const name of readdirSync(directory)) {
    copyFileSync(join(directory, name), join(shm, `${name}.new`))
    renameSync(join(shm, `${name}.new`), join(shm, name))
  }
}

const shards = (): string[] => readdirSync(shm).filter((name) => name.endsWith('.safetensors'))
type Change = (path: string, other: string) => void
const CHANGES: Record<string, Change> = {
  replace(path, other) {
    copyFileSync(other, `${path}.new`)
    renameSync(`${path}.new`, path)
  },
  remove: (path) => rmSync(path),
  truncate: (path) => truncateSync(path, 70_000),
  overwrite(path, other) {
    const data = readFileSync(other)
    const fd = openSync(path, 'r+')
    writeSync(fd, data, 0, data.length, 0)
    ftruncateSync(fd, data.length)
    closeSync(fd)
  },
}
const STRATEGIES: Record<string, Partial<RankUpdate>> = {
  broadcast: {},
  p2p: { p2p: [0, 1] },
  direct: { strategy: 'direct' },
}
type Point = 'registered' | 'gathered' | RankPoint
const POINTS: readonly Point[] = ['registered', 'gathered', 'begin', 'plan', 'h2d', 'broadcast']
/** Files that keep their old bytes, where they are mapped already: nothing may fail. */
const HARMLESS = new Set(['replace', 'remove'])

describe.for(Object.keys(STRATEGIES))('files in place that change during a %s update', (strategy) => {
  it('leave the old version whole, or an error that says so', { timeout: 600_000 }, async () => {
    await using cluster = await Cluster.start({
      ranks: RANKS,
      timeoutMs: 60_000,
      env: () => ({ CKPT_P2P_ADDRESS: '127.0.0.1' }),
      engine: { kind: 'typescript', checkpoint: versions[0]!.directory },
    })
    const options = STRATEGIES[strategy]!
    let step = 0
    const register = async (version: number): Promise<string> => {
      put(version)
      const name = `step-${step++}`
      await cluster.register(name, shm, { inPlace: true })
      return name
    }
    // Ranks that pull by p2p go by the metas that were gathered last.
    const gather = async (name: string): Promise<void> => {
      await cluster.all('gatherMetas', () => ({ name, digests: true }))
    }
    const updateTo = async (name: string): Promise<void> => {
      if (options.p2p) await gather(name)
      await cluster.update(name, options)
    }
    const served = async (version: number): Promise<void> => {
      for (const engine of cluster.engines) {
        expect(await engine.verify(versions[version]!.files)).toMatchObject({ verified: true })
      }
    }
    // Direct updates are recorded by the first.
    for (let i = 0; i < 2; i++) {
      const name = await register(i)
      await updateTo(name)
      await forget(cluster, name)
    }
    const seen: Record<string, number> = {}
    for (const [turn, point] of POINTS.entries()) {
      for (const [how, change] of Object.entries(CHANGES)) {
        const version = (turn + step) % 2
        const name = await register(version)
        const list = shards()
        const file = list[step % list.length]!
        const act = () => change(join(shm, file), join(versions[1 - version]!.directory, file))
        if (point === 'registered') act()
        let error: unknown
        try {
          if (point === 'gathered') {
            await gather(name)
            act()
          }
          if (point === 'registered') await updateTo(name)
          else if (point === 'gathered') await cluster.update(name, options)
          else {
            if (options.p2p) await gather(name)
            await heldUpdate(cluster, { name, ...options, hold: { at: point } }, act)
          }
        } catch (thrown) {
          // The rank whose file it is tells the others, whose own error then is that they were told.
          error = CkptError.is(thrown, 'ABORTED') && CkptError.is(thrown.cause) ? thrown.cause : thrown
        }
        const what = `${how} at ${point}`
        if (error === undefined) {
          await served(version)
          seen['whole'] = (seen['whole'] ?? 0) + 1
        } else {
          expect(
            CkptError.is(error) && error.retryable,
            `${what}: ${error instanceof Error ? error.message : 'no error'}`,
          ).toBe(true)
          const { code, fields } = error as CkptError
          seen[code] = (seen[code] ?? 0) + 1
          if (code === 'DIGEST_MISMATCH') expect(fields.tensor, what).toBeTypeOf('string')
          else expect([code, fields.file], what).toEqual(['MEMORY_CHANGED', join(shm, file)])
        }
        if (HARMLESS.has(how)) expect(error, what).toBeUndefined()
        await forget(cluster, name)
        if (error !== undefined) {
          // It can be retried once the files are there again.
          const again = await register(version)
          await updateTo(again)
          await served(version)
          await forget(cluster, again)
        }
      }
    }
    console.log(`${strategy}: ${JSON.stringify(seen)}`)
    // Both ends were seen: changes that do no harm, and changes that are found.
    expect(seen['whole']).toBeGreaterThanOrEqual(POINTS.length * HARMLESS.size)
    expect(seen['MEMORY_CHANGED']).toBeGreaterThan(0)
  })
})

/** Unregisters on every rank; where an update failed on one rank, others may still be about to let go of it. */
async function forget(cluster: Cluster, name: string): Promise<void> {
  await Promise.all(
    cluster.ranks.map(async (rank) => {
      const attempt = () =>
        rank.call('unregister', { name }).then(
          () => 'done',
          (error: unknown) => (error as CkptError).code,
        )
      await expect.poll(attempt, { timeout: 60_000 }).toBe('done')
    }),
  )
}

/** An update in which all ranks wait at a point until `act` is done. */
async function heldUpdate(cluster: Cluster, update: Omit<RankUpdate, 'engineSocket'>, act: () => void): Promise<void> {
  const reached = cluster.ranks.map(
    ({ process }) =>
      new Promise<void>((resolve) => {
        const listen = (message: object): void => {
          if (!('point' in message)) return
          process.child.off('message', listen)
          resolve()
        }
        process.child.on('message', listen)
      }),
  )
  const { name, ...options } = update
  const updating = cluster.update(name, options)
  updating.catch(() => undefined)
  await Promise.race([Promise.all(reached), updating])
  act()
  await cluster.all('go', () => undefined)
  await updating
}
