import { CkptError } from '@ckpt/contract'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Cluster, generateCheckpoint, type GeneratedCheckpoint, type RankUpdate } from '@ckpt/testing'

const host = createHost()
const SMALL_BUCKETS = { bucketBytes: 2 ** 20 }

describe('an engine whose update fails half-way', () => {
  let before: GeneratedCheckpoint
  let after: GeneratedCheckpoint
  beforeAll(async () => {
    before = await generateCheckpoint(host, model('qwen3-30b-a3b'), 24 * 2 ** 20, 21n)
    after = await generateCheckpoint(host, model('qwen3-30b-a3b'), 24 * 2 ** 20, 22_000_000n, 'after')
  })
  afterAll(() => {
    before[Symbol.dispose]()
    after[Symbol.dispose]()
  })

  const start = (extra: readonly string[], at = 1) =>
    Cluster.start({
      ranks: 2,
      timeoutMs: 20_000,
      engine: { kind: 'typescript', checkpoint: before.directory, extra: (rank) => (rank === at ? extra : []) },
    })

  it('that is not there is told as that on every rank, and not as a rank that is missing', async () => {
    await using cluster = await start([])
    await cluster.register('before', before.directory)
    await cluster.engines[1]!.process.stop()
    const results = await cluster.settle('update', (rank) => ({
      name: 'before',
      engineSocket: cluster.engines[rank]!.socket,
      timeoutMs: 1500,
    }))
    for (const result of results) {
      const error = CkptError.from((result as PromiseRejectedResult).reason, 'UPDATE_FAILED')
      const origin = error.code === 'ABORTED' ? CkptError.from(error.cause, 'UPDATE_FAILED') : error
      expect(origin).toMatchObject({ code: 'ENGINE_UNREACHABLE' })
      expect(origin.message).toContain('rank 1')
    }
  })

  it('is not one whose answer comes late: rank 0, and the coordinator with it, goes when all are done', async () => {
    await using cluster = await start(['--answer-after', '1500'])
    await cluster.register('before', before.directory)
    const [first, second] = cluster.ranks.map((one, rank) =>
      one.call('update', { name: 'before', engineSocket: cluster.engines[rank]!.socket }),
    )
    await first
    const gone = cluster.ranks[0]!.process.stop()
    expect(await second).toMatchObject({ rank: 1, version: 'before' })
    await gone
  })

  it('is dirty, on every rank, until the next update', async () => {
    await using cluster = await start(['--fail-at-bucket', '5'])
    await cluster.register('before', before.directory)
    const errors = await failures(cluster, 'before')
    for (const error of errors) expect(error.fields['dirty']).toEqual([0, 1])
    expect(errors[1]).toMatchObject({ code: 'ENGINE_WORKER_ERROR', fields: { phase: 'pipeline' } })
    for (const states of await cluster.all('engineStates', () => undefined)) {
      expect(states).toMatchObject([0, 1].map((rank) => ({ rank, version: null, dirty: true, reason: 'ENGINE_WORKER_ERROR' })))
    }
    for (const engine of cluster.engines) expect(await engine.health()).toMatchObject({ dirty: true })
    await serves(cluster, await cluster.update('before', SMALL_BUCKETS), 'before', before)
  })

  it('is repaired by a second attempt, which sends only what is missing', async () => {
    await using cluster = await start(['--fail-at-bucket', '12'])
    await cluster.register('before', before.directory)
    const reports = await cluster.update('before', { ...SMALL_BUCKETS, retry: 1 })
    for (const report of reports) {
      expect(report).toMatchObject({ attempts: 2, bytes: before.bytes, tensors: before.tensors })
      expect(report.kept!.bytes).toBeGreaterThan(4 * 2 ** 20)
      expect(report.kept!.bytes).toBeLessThan(before.bytes)
      expect(report.broadcastBytes).toBeLessThan(before.bytes - report.kept!.bytes + 8 * 2 ** 20)
    }
    expect(reports[0]!.kept).toEqual(reports[1]!.kept)
    await serves(cluster, reports, 'before', before)
    // A reason from one update is no reason to leave it out of another.
    await cluster.engines[0]!.poison()
    const again = await cluster.update('before', { ...SMALL_BUCKETS, retry: 1, version: 'again' })
    for (const report of again) expect(report.kept).toBeUndefined()
    await serves(cluster, again, 'again', before)
  })

  it('is sent everything when its worker is another one at the second attempt', async () => {
    await using cluster = await start(['--exit-at-bucket', '6'], 0)
    await cluster.register('before', before.directory)
    const updating = cluster.update('before', { ...SMALL_BUCKETS, retry: 1 })
    const child = cluster.engines[0]!.process.child
    await new Promise((resolve) => child.once('exit', resolve))
    await cluster.restartEngine(0)
    const reports = await updating
    for (const report of reports) {
      expect(report.attempts).toBe(2)
      expect(report.kept).toBeUndefined()
    }
    await serves(cluster, reports, 'before', before)
  })

  it('is not tried again for what cannot pass', async () => {
    await using cluster = await start([])
    await cluster.register('before', before.directory)
    const started = performance.now()
    const errors = await failures(cluster, 'before', { retry: 3, ringBytes: 4096 })
    expect(performance.now() - started).toBeLessThan(5000)
    for (const error of errors) {
      expect(error.fields['attempts']).toBeUndefined()
      expect(error.fields['dirty']).toBeUndefined()
    }
  })

  it('gets the version before back, where that is still registered', async () => {
    await using cluster = await start(['--fail-at-bucket', '7', '--spare-updates', '1'])
    await cluster.register('before', before.directory)
    await cluster.register('after', after.directory)
    await serves(cluster, await cluster.update('before', SMALL_BUCKETS), 'before', before)
    const errors = await failures(cluster, 'after', { rollback: true })
    for (const { fields } of errors) expect([fields['rolledBack'], fields['dirty']]).toEqual(['before', undefined])
    expect(errors[1]).toMatchObject({ code: 'ENGINE_WORKER_ERROR' })
    await serves(cluster, [], 'before', before)
    await serves(cluster, await cluster.update('after', SMALL_BUCKETS), 'after', after)
  })

  it('stays dirty where the version before is gone', async () => {
    await using cluster = await start(['--fail-at-bucket', '7', '--spare-updates', '1'])
    await cluster.register('before', before.directory)
    await cluster.register('after', after.directory)
    await cluster.update('before', SMALL_BUCKETS)
    await cluster.ranks[1]!.call('unregister', { name: 'before' })
    for (const error of await failures(cluster, 'after', { rollback: true })) {
      expect(error.fields['rolledBack']).toBeUndefined()
      expect(error.fields['dirty']).toEqual([0, 1])
    }
  })

  it('is dirty as a whole when one worker fails after the vote', async () => {
    await using cluster = await start(['--fail-at-commit', '--spare-updates', '1'])
    await cluster.register('before', before.directory)
    await cluster.register('after', after.directory)
    await cluster.update('before', SMALL_BUCKETS)
    const errors = await failures(cluster, 'after')
    expect(errors[1]).toMatchObject({ code: 'ENGINE_WORKER_ERROR', fields: { phase: 'commit', dirty: [0, 1] } })
    expect(errors[0]).toMatchObject({ code: 'ABORTED', fields: { dirty: [0, 1] } })
    for (const states of await cluster.all('engineStates', () => undefined)) {
      expect(states.map(({ dirty }) => dirty)).toEqual([true, true])
    }
    await serves(cluster, await cluster.update('after', { ...SMALL_BUCKETS, version: 'repaired' }), 'repaired', after)
  })

  async function failures(cluster: Cluster, name: string, options: Partial<RankUpdate> = {}): Promise<CkptError[]> {
    const results = await cluster.settle('update', (rank) => ({
      name,
      engineSocket: cluster.engines[rank]!.socket,
      ...SMALL_BUCKETS,
      ...options,
    }))
    return results.map((result) => {
      if (result.status === 'rejected' && CkptError.is(result.reason)) return result.reason
      throw new Error(`an update that had to fail: ${JSON.stringify(result)}`)
    })
  }

  async function serves(
    cluster: Cluster,
    reports: readonly { version: string }[],
    version: string,
    checkpoint: GeneratedCheckpoint,
  ): Promise<void> {
    for (const report of reports) expect(report.version).toBe(version)
    for (const engine of cluster.engines) {
      expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
      expect(await engine.health()).toMatchObject({ version, dirty: false })
    }
    for (const states of await cluster.all('engineStates', () => undefined)) {
      expect(states).toEqual([0, 1].map((rank) => ({ engine: 'control', rank, version, dirty: false })))
    }
  }
})
