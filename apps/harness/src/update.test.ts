import type { CkptError } from '@ckpt/contract'
import { createHost } from '@ckpt/transport'
import { model } from '@ckpt/models'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Cluster, generateCheckpoint, type GeneratedCheckpoint } from '@ckpt/testing'

const host = createHost()
const MIB = 2 ** 20

describe.each([
  ['qwen3-30b-a3b', 24 * MIB],
  ['deepseek-v3.1', 48 * MIB],
] as const)('updates of %s', (id, bytes) => {
  let before: GeneratedCheckpoint
  let after: GeneratedCheckpoint
  beforeAll(async () => {
    before = await generateCheckpoint(host, model(id), bytes, 1n)
    after = await generateCheckpoint(host, model(id), bytes, 1_000_000n, 'other')
  })
  afterAll(() => {
    before[Symbol.dispose]()
    after[Symbol.dispose]()
  })

  it.each([1, 2, 4])('give %d engine workers exactly their bytes, one checkpoint after the other', async (ranks) => {
    await using cluster = await Cluster.start({
      ranks,
      keepAlive: ranks === 2,
      engine: { kind: 'typescript', checkpoint: before.directory },
    })
    for (const [name, checkpoint] of Object.entries({ before, after })) {
      await cluster.register(name, checkpoint.directory)
      const reports = await cluster.update(name)
      for (const report of reports) {
        expect(report).toMatchObject({
          version: name,
          verified: 'sources',
          bytes: checkpoint.bytes,
          tensors: checkpoint.tensors,
        })
      }
      for (const engine of cluster.engines) {
        expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true, mismatches: [] })
        expect(await engine.health()).toMatchObject({ version: name, dirty: false })
      }
    }
    // The check itself can fail: the engines now hold `after`.
    expect(await cluster.engines[0]!.verify(before.files)).toMatchObject({ verified: false })
  })

  it('take tensors larger than the preferred bucket', async () => {
    await using cluster = await Cluster.start({ ranks: 2, engine: { kind: 'typescript', checkpoint: before.directory } })
    await cluster.register('large', before.directory)
    const reports = await cluster.update('large', { bucketBytes: 256 * 1024, verify: false })
    expect(reports[0]!.buckets).toBeGreaterThan(10)
    for (const engine of cluster.engines) expect(await engine.verify(before.files)).toMatchObject({ verified: true })
  })

  it('refuse a ring that cannot take the largest tensor, by its name', async () => {
    await using cluster = await Cluster.start({ ranks: 2, engine: { kind: 'typescript', checkpoint: before.directory } })
    await cluster.register('tight', before.directory)
    const results = await cluster.settle('update', (rank) => ({
      name: 'tight',
      engineSocket: cluster.engines[rank]!.socket,
      ringBytes: 64 * 1024,
    }))
    for (const result of results) {
      const error = (result as PromiseRejectedResult).reason as CkptError
      const origin = error.code === 'ABORTED' ? (error.cause as CkptError) : error
      expect(origin.code).toBe('PLAN_INFEASIBLE')
      expect(origin.fields.tensor).toBeTypeOf('string')
    }
  })
})

it('go on serially, and say so, where the ring cannot hold three buckets', async () => {
  using checkpoint = await generateCheckpoint(host, model('qwen3-30b-a3b'), 8 * MIB, 5n, 'serial')
  await using cluster = await Cluster.start({ ranks: 2, engine: { kind: 'typescript', checkpoint: checkpoint.directory } })
  await cluster.register('small', checkpoint.directory)
  const [report] = await cluster.update('small', { ringBytes: 2.5 * MIB })
  expect(report).toMatchObject({ mode: 'serial', verified: 'sources' })
  expect(report!.modeReason).toContain('the pipeline needs 3')
  for (const engine of cluster.engines) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
})
