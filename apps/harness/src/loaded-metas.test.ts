import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { expect, it } from 'vitest'
import { Cluster, copyCheckpoint, generateCheckpoint, Hosts, hostsProblem } from '@ckpt/testing'

it('ranks on two hosts take what a third one holds by its metas, by every strategy', { timeout: 240_000 }, async ({ skip }) => {
  const problem = hostsProblem()
  if (problem !== undefined) return skip(problem)
  await using isolated = await Hosts.create({ count: 3 })
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-loaded-metas-'))
  try {
    using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 12 * 2 ** 20, 9n, 'loaded-metas')
    // Outside of /dev/shm, which the hosts do not share.
    const { directory: copy, files } = copyCheckpoint(checkpoint, join(directory, 'copy'))
    const on = (places: readonly number[]) =>
      Cluster.start({
        ranks: places.length,
        coordinator: isolated.hosts[places[0]!]!.address,
        timeoutMs: 60_000,
        through: (rank) => isolated.hosts[places[rank]!]!.through,
        engine: { kind: 'typescript', checkpoint: copy },
      })
    await using holding = await on([0])
    const metas = join(directory, 'metas')
    await holding.register('c', copy)
    await holding.all('gatherMetas', () => ({ name: 'c', digests: true }))
    await holding.ranks[0]!.call('saveMetas', { name: 'c', path: metas })
    await using joining = await on([1, 1, 2])
    // Not all of them know it yet.
    await joining.ranks[0]!.call('loadMetas', { path: metas })
    await expect(joining.update('c', { strategy: 'direct' })).rejects.toMatchObject({ code: 'CHECKPOINT_UNKNOWN' })
    for (const rank of joining.ranks) await rank.call('loadMetas', { path: metas })
    let served = await holding.ranks[0]!.call('servedBytes', undefined)
    for (const update of [
      { p2p: [0, 1, 2] },
      { strategy: 'broadcast' },
      { strategy: 'direct' },
      { strategy: 'default' },
    ] as const) {
      await Promise.all(joining.engines.map((engine) => engine.poison()))
      for (const report of await joining.update('c', update)) expect(report.verified, JSON.stringify(update)).toBeTruthy()
      for (const engine of joining.engines) expect(await engine.verify(files)).toMatchObject({ verified: true, mismatches: [] })
      const before = served
      served = await holding.ranks[0]!.call('servedBytes', undefined)
      // Once for each host, however many of its ranks need it.
      expect(served - before, JSON.stringify(update)).toBe(2 * checkpoint.bytes)
    }
  } finally {
    rmSync(directory, { recursive: true })
  }
})
