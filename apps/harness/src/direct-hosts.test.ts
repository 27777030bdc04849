import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { expect, it } from 'vitest'
import { Cluster, generateCheckpoint, Hosts, hostsProblem } from '@ckpt/testing'

it(
  'ranks of different hosts read exactly what their workers need of each other, and write it directly',
  { timeout: 120_000 },
  async ({ skip }) => {
    // Only their names differ: what ranks of different hosts do is shown on shared memory, too.
    const names = { net: false, shm: false, tmp: false, ipc: false, pid: false }
    const problem = hostsProblem(names)
    if (problem !== undefined) skip(problem)
    await using isolated = await Hosts.create({ count: 2, ...names })
    const host = createHost()
    const sizes = 24 * 2 ** 20
    using before = await generateCheckpoint(host, model('qwen3-30b-a3b'), sizes, 1n, 'hosts-before')
    using after = await generateCheckpoint(host, model('qwen3-30b-a3b'), sizes, 1_000_000n, 'hosts-after')
    // Ranks 0 and 1 on one host, rank 2 on another.
    await using cluster = await Cluster.start({
      ranks: 3,
      timeoutMs: 30_000,
      through: (rank) => isolated.hosts[rank === 2 ? 1 : 0]!.through,
      env: () => ({ CKPT_P2P_ADDRESS: '127.0.0.1' }),
      engine: { kind: 'typescript', checkpoint: before.directory },
    })
    await cluster.register('before', before.directory, { inPlace: true })
    const [recorded] = await cluster.update('before', { strategy: 'direct' })
    expect(recorded!.direct!.recorded).toMatch(/^recorded/)
    await cluster.register('after', after.directory, { inPlace: true })
    await cluster.update('after')
    const staged = await Promise.all(cluster.engines.map((engine) => engine.digests()))
    const served = () => cluster.all('servedBytes', () => undefined)
    for (const verify of [true, false]) {
      await Promise.all(cluster.engines.map((engine) => engine.poison()))
      const before = await served()
      const reports = await cluster.update('after', { strategy: 'direct-required', checkEvery: 0, verify })
      const read = (await served()).map((bytes, rank) => bytes - before[rank]!)
      for (const [rank, engine] of cluster.engines.entries()) {
        expect(reports[rank]).toMatchObject({ strategy: 'direct', ringBytes: 0, verified: verify ? 'bytes' : 'none' })
        expect(await engine.digests()).toEqual(staged[rank])
        expect(await engine.verify(after.files)).toMatchObject({ verified: true })
      }
      const bytes = reports.map((report) => report.direct!.bytes!)
      // Data on one host is read there; from another host comes only what no rank here holds, once for all workers.
      const pulled = bytes.reduce((sum, one) => sum + (one.pulled ?? 0), 0)
      expect(pulled).toBeGreaterThan(0)
      expect(bytes[2]!.pulled).toBeLessThanOrEqual(bytes[2]!.needed)
      expect(bytes[0]!.nodeNeeded).toBe(bytes[0]!.h2d + bytes[1]!.h2d)
      expect(bytes[2]!.nodeNeeded).toBe(bytes[2]!.h2d)
      // If requested, digests are computed again from the same memory.
      if (!verify) expect(read.reduce((sum, one) => sum + one, 0)).toBe(pulled)
    }
  },
)
