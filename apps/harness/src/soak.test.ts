import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { describe, expect, it } from 'vitest'
import { Cluster, generateCheckpoint, leftovers } from '@ckpt/testing'

const UPDATES = Number(process.env['CKPT_SOAK_UPDATES'] ?? 100)
const WARM = Math.max(20, UPDATES / 10)

describe('updates in a row', () => {
  it.each([
    ['kept', true],
    ['released', false],
  ])(
    `do not grow memory, files, shared memory or sockets (ring %s)`,
    { timeout: 300_000 + UPDATES * 1000 },
    async (_, keepAlive) => {
      using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 16 * 2 ** 20, 3n)
      const cluster = await Cluster.start({
        ranks: 2,
        keepAlive,
        engine: { kind: 'typescript', checkpoint: checkpoint.directory },
      })
      const pids = new Set([...cluster.ranks, ...cluster.engines].map(({ process }) => process.child.pid!))
      try {
        await cluster.register('a', checkpoint.directory)
        const update = async (index: number) => cluster.update('a', { version: String(index), bucketBytes: 2 ** 20 })
        for (let i = 0; i < WARM; i++) await update(i)
        const before = await cluster.all('resources', () => undefined)
        const beforeShared = leftovers(pids).length
        for (let i = WARM; i < UPDATES; i++) await update(i)
        const after = await cluster.all('resources', () => undefined)
        for (const [rank, start] of before.entries()) {
          const end = after[rank]!
          console.log(
            `rank ${rank}, ring ${keepAlive ? 'kept' : 'released'}, after ${WARM} and ${UPDATES} updates: heap ` +
              `${(start.heapBytes / 1e6).toFixed(1)} and ${(end.heapBytes / 1e6).toFixed(1)} MB, resident ` +
              `${(start.residentBytes / 1e6).toFixed(1)} and ${(end.residentBytes / 1e6).toFixed(1)} MB, open files ${start.openFiles} and ` +
              `${end.openFiles}, mappings ${start.maps} and ${end.maps}`,
          )
          expect(end.openFiles).toBeLessThanOrEqual(start.openFiles + 3)
          expect(end.heapBytes).toBeLessThan(start.heapBytes + 2e6)
          // Resident memory grows in a step when V8 enlarges its young generation, and mappings grow by a few when it compiles;
          // a leak of one ring, bucket or mapping per update would exceed these bounds.
          expect(end.maps).toBeLessThanOrEqual(start.maps + 75)
          expect(end.residentBytes).toBeLessThan(start.residentBytes + 40e6)
        }
        expect(leftovers(pids).length).toBeLessThanOrEqual(beforeShared)
        for (const engine of cluster.engines) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
      } finally {
        await cluster.close()
      }
      expect(leftovers(pids)).toEqual([])
    },
  )
})
