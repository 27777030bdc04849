import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { model } from '@ckpt/models'
import { createHost, probeCuda } from '@ckpt/transport'
import { describe, expect, it } from 'vitest'
import { Cluster, generateCheckpoint } from '@ckpt/testing'

const gpus = (await probeCuda().catch(() => undefined))?.devices.length ?? 0
const local = fileURLToPath(new URL('../../../.venv/bin/python', import.meta.url))
const python = process.env['CKPT_PYTHON'] ?? (existsSync(local) ? local : 'python3')
const GIB = 2 ** 30

describe('gpu: p2p over TCP loopback', { timeout: 240_000 }, () => {
  // One receiver on the second GPU, and two that share over NCCL; the source ranks hold the checkpoint in pinned memory.
  it.for([1, 2])('%d joining ranks pull from the host memory of another', async (receivers, context) => {
    if (gpus < receivers) context.skip(`${receivers} GPUs are needed, there are ${gpus}`)
    const bytes = Number(process.env['CKPT_P2P_BYTES'] ?? 4 * GIB)
    using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), bytes, 41n, 'gpu-p2p')
    const directory = mkdtempSync(join(tmpdir(), 'ckpt-gpu-p2p-'))
    try {
      const metas = join(directory, 'metas')
      await using old = await Cluster.start({ ranks: 1, backend: 'cuda', timeoutMs: 60_000 })
      await old.register('a', checkpoint.directory)
      await old.all('gatherMetas', () => ({ name: 'a', digests: true }))
      await old.ranks[0]!.call('saveMetas', { name: 'a', path: metas })
      await using joining = await Cluster.start({
        ranks: receivers,
        backend: 'cuda',
        timeoutMs: 60_000,
        engine: { kind: 'python', python, checkpoint: checkpoint.directory },
      })
      await joining.all('loadMetas', () => ({ path: metas }))
      const ranks = joining.ranks.map(({ rank }) => rank)
      for (const verify of [true, false, false]) {
        await Promise.all(joining.engines.map((engine) => engine.poison()))
        const reports = await joining.update('a', { p2p: ranks, verify, keepAlive: true })
        for (const engine of joining.engines) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
        for (const report of reports) {
          expect(report).toMatchObject({ strategy: 'p2p', bytes: checkpoint.bytes })
          expect(report.pull!.sources.map(({ rank }) => rank)).toEqual([0])
          expect(report.pull!.lost).toEqual([])
          const { pull, stages, steps, totalMs } = report
          console.log(
            JSON.stringify({
              receivers,
              rank: report.rank,
              verify,
              bytes: report.bytes,
              totalMs,
              steps,
              stages,
              pullMs: pull!.busyMs,
              pulled: pull!.bytes,
            }),
          )
        }
      }
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
})
