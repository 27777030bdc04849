import { CkptError } from '@ckpt/contract'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Cluster, generateCheckpoint, type GeneratedCheckpoint } from '@ckpt/testing'

const host = createHost()

describe('a cluster that changes', () => {
  let checkpoint: GeneratedCheckpoint
  beforeAll(async () => {
    checkpoint = await generateCheckpoint(host, model('qwen3-30b-a3b'), 24 * 2 ** 20, 31n)
  })
  afterAll(() => checkpoint[Symbol.dispose]())

  const start = (ranks: number) =>
    Cluster.start({
      ranks,
      keepAlive: true,
      elastic: true,
      timeoutMs: 20_000,
      heartbeatTimeoutMs: 2000,
      engine: { kind: 'typescript', checkpoint: checkpoint.directory },
    })

  it('updates again after each of its ranks died and came back, the one with the coordinator too', async () => {
    await using cluster = await start(2)
    await cluster.register('a', checkpoint.directory)
    await updated(cluster, 'first')
    for (const rank of [1, 0]) {
      await cluster.restartRank(rank)
      // Its share is lost with it; the other rank still has its own.
      await cluster.ranks[rank]!.call('register', {
        name: 'a',
        source: { directory: checkpoint.directory },
        options: { share: { index: rank, count: 2 } },
      })
      await updated(cluster, `after rank ${rank} came back`)
    }
  })

  it('tells the survivors of a rank that dies while they update, and works with its next incarnation', async () => {
    await using cluster = await start(2)
    await cluster.register('a', checkpoint.directory)
    const updating = cluster.ranks[1]!.call('update', { name: 'a', engineSocket: cluster.engines[1]!.socket }).catch(
      (error: unknown) => error,
    )
    await cluster.restartRank(0)
    expect(CkptError.is(await updating)).toBe(true)
    await cluster.ranks[0]!.call('register', {
      name: 'a',
      source: { directory: checkpoint.directory },
      options: { share: { index: 0, count: 2 } },
    })
    await updated(cluster, 'again')
  })

  it('takes ranks in between updates, which get everything', async () => {
    await using cluster = await start(1)
    await cluster.register('a', checkpoint.directory)
    await updated(cluster, 'alone')
    for (const size of [2, 3]) {
      await cluster.addRank()
      const reports = await updated(cluster, `${size} ranks`)
      expect(reports).toHaveLength(size)
    }
  })

  async function updated(cluster: Cluster, version: string) {
    const reports = await cluster.update('a', { version })
    for (const engine of cluster.engines) {
      expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
      expect(await engine.health()).toMatchObject({ version, dirty: false })
    }
    for (const report of reports) expect(report).toMatchObject({ version, bytes: checkpoint.bytes, verified: 'sources' })
    return reports
  }
})
