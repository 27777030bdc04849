import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Cluster, generateCheckpoint, IsolatedHosts } from '@ckpt/testing'

const MIB = 2 ** 20
const SIZE = 24 * MIB

/** Checkpoints outside of /dev/shm, which the hosts do not share. */
let directory: string
let checkpoints: { readonly directory: string; readonly files: readonly string[]; readonly bytes: number }[]
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-hosts-'))
  const host = createHost()
  checkpoints = await Promise.all(
    [1n, 1_000_000n].map(async (seed, index) => {
      using made = await generateCheckpoint(host, model('qwen3-30b-a3b'), SIZE, seed, `hosts-${index}`)
      const copy = join(directory, String(index))
      cpSync(made.directory, copy, { recursive: true })
      const files = made.files.map((file) => join(copy, file.slice(made.directory.length + 1)))
      return { directory: copy, files, bytes: made.bytes }
    }),
  )
})
afterAll(() => rmSync(directory, { recursive: true }))

describe.each([
  ['two hosts, a rank on each', 2, [0, 1]],
  ['two hosts with three ranks', 2, [0, 0, 1]],
  ['three hosts with four ranks', 3, [0, 1, 1, 2]],
] as const)('%s', (_, count, places) => {
  it('take the same updates as one', { timeout: 240_000 }, async ({ skip }) => {
    const made = await IsolatedHosts.create({ count })
    if ('problem' in made) return skip(made.problem)
    await using isolated = made
    const hostOf = (rank: number) => isolated.hosts[places[rank]!]!
    await using cluster = await Cluster.start({
      ranks: places.length,
      coordinator: hostOf(0).address,
      timeoutMs: 60_000,
      through: (rank) => hostOf(rank).through,
      engine: { kind: 'typescript', checkpoint: checkpoints[0]!.directory },
    })
    const all = [...places.keys()]
    for (const [turn, update] of [
      { strategy: 'broadcast' },
      { p2p: all },
      { strategy: 'direct' },
      { strategy: 'direct' },
    ].entries()) {
      const checkpoint = checkpoints[turn % 2]!
      await cluster.register('c', checkpoint.directory)
      await cluster.all('gatherMetas', () => ({ name: 'c', digests: true }))
      await Promise.all(cluster.engines.map((engine) => engine.poison()))
      const before = await cluster.all('servedBytes', () => undefined)
      for (const report of await cluster.update('c', update as never))
        expect(report.verified, JSON.stringify(update)).toBeTruthy()
      for (const engine of cluster.engines) {
        expect(await engine.verify([...checkpoint.files])).toMatchObject({ verified: true, mismatches: [] })
      }
      const served = (await cluster.all('servedBytes', () => undefined)).map((bytes, rank) => bytes - before[rank]!)
      if ('strategy' in update && update.strategy === 'broadcast') {
        // Each host reads what it does not hold, once, however many of its ranks need it.
        expect(served.reduce((sum, bytes) => sum + bytes, 0)).toBe(checkpoint.bytes * (count - 1))
      }
      await cluster.all('unregister', () => ({ name: 'c' }))
    }
  })
})
