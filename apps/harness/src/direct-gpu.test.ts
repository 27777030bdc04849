import { model } from '@ckpt/models'
import { createHost, probeCuda } from '@ckpt/transport'
import { describe, expect, it } from 'vitest'
import { Cluster, generateCheckpoint, pythonInterpreter } from '@ckpt/testing'

const gpus = (await probeCuda().catch(() => undefined))?.devices.length ?? 0

describe('gpu: direct updates', { timeout: 120_000 }, () => {
  it.for([1, 2])('give %d GPUs the bytes of a staged update, with digests and without', async (ranks, context) => {
    if (gpus < ranks) return context.skip(`${ranks} GPUs are needed, there are ${gpus}`)
    using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 2 ** 30, 12n, 'direct')
    await using cluster = await Cluster.start({
      ranks,
      backend: 'cuda',
      timeoutMs: 30_000,
      engine: { kind: 'python', python: pythonInterpreter(), checkpoint: checkpoint.directory },
    })
    await cluster.register('a', checkpoint.directory, { inPlace: true })
    await cluster.update('a', { strategy: 'direct' })
    const [recorded] = await cluster.update('a', { strategy: 'direct' })
    expect(recorded!.direct!.recorded).toMatch(/^recorded/)
    const staged = await Promise.all(cluster.engines.map((engine) => engine.digests()))
    for (const verify of [false, true]) {
      await Promise.all(cluster.engines.map((engine) => engine.poison()))
      const reports = await cluster.update('a', { strategy: 'direct-required', checkEvery: 0, verify })
      expect(reports[0]).toMatchObject({ strategy: 'direct', ringBytes: 0, direct: { opaque: [] } })
      for (const [rank, engine] of cluster.engines.entries()) {
        expect(await engine.digests()).toEqual(staged[rank])
        expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
      }
      const h2d = reports.reduce((sum, { direct }) => sum + direct!.bytes!.h2d, 0)
      expect(h2d).toBe(reports[0]!.direct!.bytes!.nodeNeeded)
    }
  })
})
