import { CkptError } from '@ckpt/contract'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Cluster, generateCheckpoint, type GeneratedCheckpoint, leftovers } from '@ckpt/testing'

const host = createHost()
const SMALL_BUCKETS = { bucketBytes: 2 ** 20 }

describe('an update that fails', () => {
  let checkpoint: GeneratedCheckpoint
  beforeAll(async () => {
    checkpoint = await generateCheckpoint(host, model('qwen3-30b-a3b'), 24 * 2 ** 20, 7n)
  })
  afterAll(() => checkpoint[Symbol.dispose]())

  const start = (extra: (rank: number) => readonly string[], keepAlive = false) =>
    Cluster.start({
      ranks: 2,
      keepAlive,
      timeoutMs: 20_000,
      heartbeatTimeoutMs: 1500,
      engine: { kind: 'typescript', checkpoint: checkpoint.directory, extra },
    })

  it('because a worker raises reaches every rank with its traceback, and the next one works', async () => {
    await using cluster = await start((rank) => (rank === 1 ? ['--fail-at-bucket', '3'] : []), true)
    await cluster.register('a', checkpoint.directory)
    const [first, second] = await outcomes(cluster)
    expect(second).toMatchObject({ code: 'ENGINE_WORKER_ERROR', fields: { rank: 1 } })
    expect(second!.fields.traceback).toContain('injected failure at bucket 3')
    expect(first).toMatchObject({ code: 'ABORTED' })
    expect(CkptError.is(first!.cause, 'ENGINE_WORKER_ERROR')).toBe(true)
    expect((first!.cause as CkptError).fields.traceback).toContain('injected failure')
    expect((await cluster.engines[1]!.health()).dirty).toBe(true)
    await worksAgain(cluster)
  })

  it('because a worker dies is noticed at once, and works with a new worker', async () => {
    await using cluster = await start((rank) => (rank === 0 ? ['--exit-at-bucket', '2'] : []))
    await cluster.register('a', checkpoint.directory)
    const started = performance.now()
    const [first, second] = await outcomes(cluster)
    expect(performance.now() - started).toBeLessThan(5000)
    expect(first).toMatchObject({ code: 'ENGINE_WORKER_LOST', fields: { rank: 0 } })
    expect(second).toMatchObject({ code: 'ABORTED' })
    await cluster.restartEngine(0)
    await worksAgain(cluster)
  })

  it('because a rank is killed ends on the others within the heartbeat window, and leaves nothing once they are gone', async () => {
    const cluster = await start(() => [])
    const pids = new Set([...cluster.ranks, ...cluster.engines].map(({ process }) => process.child.pid!))
    await cluster.register('a', checkpoint.directory)
    const update = cluster.settle('update', (rank) => ({
      name: 'a',
      engineSocket: cluster.engines[rank]!.socket,
      ...SMALL_BUCKETS,
    }))
    cluster.engines[0]!.process.child.kill('SIGSTOP') // the update cannot end before the rank is gone
    cluster.ranks[1]!.process.child.kill('SIGKILL')
    const started = performance.now()
    const [first] = await update
    expect(performance.now() - started).toBeLessThan(1500 + 3000)
    expect(first).toMatchObject({ status: 'rejected' })
    expect((first as PromiseRejectedResult).reason).toSatisfy((error) => CkptError.is(error))
    await cluster.close()
    // A killed process cannot clean up; the next process that starts removes what it left.
    const { removeStaleRings } = await import('@ckpt/transport')
    await removeStaleRings()
    expect(leftovers(pids).filter((path) => path.startsWith('/dev/shm'))).toEqual([])
  })

  it('because the ranks disagree names what they disagree in', async () => {
    await using cluster = await start(() => [])
    await cluster.register('a', checkpoint.directory)
    const results = await cluster.settle('update', (rank) => ({
      name: 'a',
      engineSocket: cluster.engines[rank]!.socket,
      version: `version of rank ${rank}`,
    }))
    for (const result of results) {
      const error = (result as PromiseRejectedResult).reason as CkptError
      const origin = error.code === 'ABORTED' ? (error.cause as CkptError) : error
      expect(origin).toMatchObject({ code: 'INVALID_ARGUMENT', fields: { field: 'version' } })
    }
    await worksAgain(cluster)
  })

  async function outcomes(cluster: Cluster): Promise<(CkptError | undefined)[]> {
    const results = await cluster.settle('update', (rank) => ({
      name: 'a',
      engineSocket: cluster.engines[rank]!.socket,
      ...SMALL_BUCKETS,
    }))
    return results.map((result) => (result.status === 'rejected' ? (result.reason as CkptError) : undefined))
  }

  async function worksAgain(cluster: Cluster): Promise<void> {
    await cluster.update('a', { version: 'again', ...SMALL_BUCKETS })
    for (const engine of cluster.engines) {
      expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
      expect(await engine.health()).toMatchObject({ version: 'again', dirty: false })
    }
  }
})
