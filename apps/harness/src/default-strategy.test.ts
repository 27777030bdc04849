import { Cluster, generateCheckpoint, type GeneratedCheckpoint } from '@ckpt/testing'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

describe('the default strategy', { timeout: 120_000 }, () => {
  let checkpoint: GeneratedCheckpoint
  beforeAll(async () => {
    checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 8 * 2 ** 20, 3n, 'default')
  })
  afterAll(() => checkpoint[Symbol.dispose]())

  /** Updates a number of times; returns rank 0's reports. */
  const updates = async (times: number, options: { readonly inPlace?: boolean }, ...engine: string[]) => {
    await using cluster = await Cluster.start({
      ranks: 2,
      timeoutMs: 30_000,
      engine: { kind: 'typescript', checkpoint: checkpoint.directory, extra: (rank) => (rank === 1 ? engine : []) },
    })
    await cluster.register('a', checkpoint.directory, options)
    const how: string[] = []
    for (let i = 0; i < times; i++) {
      await Promise.all(cluster.engines.map((one) => one.poison()))
      const [report] = await cluster.update('a', { strategy: 'default' })
      how.push(report!.how)
      for (const one of cluster.engines) expect(await one.verify(checkpoint.files)).toMatchObject({ verified: true })
    }
    return how
  }

  it('records the first update and writes the next ones directly', async () => {
    const [first, ...later] = await updates(3, { inPlace: true })
    expect(first).toBe('staged, and recorded for the next update: rank 0: its engine worker has no recording yet')
    expect(later).toEqual(['direct', 'direct'])
  })

  it('stages where the ranks’ memory cannot be shared, and says so', async () => {
    const [, ...later] = await updates(3, {})
    for (const how of later) expect(how).toMatch(/^staged: segment \d of rank \d is in memory that no other rank can map/)
  })

  it('does not use a recording again after an update by it wrote wrong bytes', async () => {
    await using cluster = await Cluster.start({
      ranks: 2,
      timeoutMs: 30_000,
      engine: { kind: 'typescript', checkpoint: checkpoint.directory },
    })
    await cluster.register('a', checkpoint.directory, { inPlace: true })
    const update = async () => (await cluster.update('a', { strategy: 'default', verify: true }))[0]!.how
    await update()
    expect(await update()).toBe('direct')
    await cluster.engines[0]!.mutate({ kind: 'parameter', seed: 1 })
    await expect(update()).rejects.toMatchObject({ code: 'DIGEST_MISMATCH' })
    await Promise.all(cluster.engines.map((one) => one.poison()))
    expect(await update()).toMatch(/^staged, and recorded .* the last update by its recording wrote wrong bytes/)
    for (const one of cluster.engines) expect(await one.verify(checkpoint.files)).toMatchObject({ verified: true })
  })

  it('no longer records a worker that never keeps its recording', async () => {
    const how = await updates(5, { inPlace: true }, '--forgetful')
    expect(how.slice(0, 3).every((one) => one.startsWith('staged, and recorded'))).toBe(true)
    for (const one of how.slice(3)) expect(one).toMatch(/^staged: rank 1: its engine worker was recorded 3 times in vain/)
  })
})
