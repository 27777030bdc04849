import { broadcast } from '@ckpt/core'
import { vllm } from '@ckpt/vllm'
import { describe, expect, it } from 'vitest'
import { generateModels, LocalRanks, type ModelFamily, vllmEnvironment, VllmServer } from '@ckpt/testing'
import { expectDirect } from './direct-updates.fixture.ts'
import { expectedFromDisk } from './expected.ts'

const environment = await vllmEnvironment()

/** Far smaller than a layer: tensors that belong together arrive in several buckets, and the ring is overwritten many times. */
const SMALL = { bucketBytes: 16 * 1024, ringBytes: 256 * 1024 }

describe('real vLLM', () => {
  it.for<{ family: ModelFamily; workers: number }>([
    { family: 'qwen3', workers: 1 },
    { family: 'qwen3-moe', workers: 1 },
    { family: 'llama-tied', workers: 2 },
  ])('with $family on $workers worker(s) answers as with the same weights from disk', async ({ family, workers }, { skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    const { python } = environment
    using models = await generateModels(python, [
      { family, seed: 1 },
      { family, seed: 2 },
    ])
    const [first, second] = models.directories as [string, string]
    const expected = await expectedFromDisk(python, [first, second], workers)
    expect(expected[0]).not.toEqual(expected[1])

    await using server = await VllmServer.serving({ python, model: first, loadFormat: 'dummy', tensorParallelSize: workers })
    const processes = server.workers()
    expect(processes).toHaveLength(workers)
    for (const [index, { tokens }] of (await server.complete()).entries()) {
      expect(tokens).not.toEqual(expected[0]![index]!.tokens)
    }

    await using ranks = await LocalRanks.create(workers)
    await ranks.register('first', first)
    await ranks.register('second', second)
    const engine = vllm({ url: server.url, parallelSize: workers })
    for (const [name, answers] of [
      ['first', expected[0]],
      ['second', expected[1]],
      ['first', expected[0]],
    ] as const) {
      const reports = await ranks.update(name, { engine, strategy: broadcast(), ...SMALL })
      // Every tensor was compared; the expected contents of parameters are unknown without a recording.
      expect(reports[0]).toMatchObject({ verified: 'sources', version: name })
      expect(reports[0]!.buckets).toBeGreaterThan(5)
      expect(await server.complete()).toEqual(answers)
    }
    expect(server.workers()).toEqual(processes)
    // Linear layers and experts are packed by the CPU backend and still use the ring: embeddings, norms and biases remain.
    await expectDirect({ server, ranks, expected, share: [0.1, 0.6] })
  })
})
