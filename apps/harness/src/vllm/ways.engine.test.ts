import { vllm, type VllmEvent } from '@ckpt/vllm'
import { describe, expect, it } from 'vitest'
import { generateModels, LocalRanks, vllmEnvironment, VllmServer } from '@ckpt/testing'
import { expectedFromDisk } from './expected.ts'

const environment = await vllmEnvironment()

describe('real vLLM, other ways in', () => {
  it('takes updates through its own weight transfer, by the backend "ckpt"', async ({ skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    const { python } = environment
    using models = await generateModels(python, [{ family: 'qwen3-moe', seed: 1 }])
    const model = models.directories[0]!
    const [expected] = await expectedFromDisk(python, [model], 1)
    await using server = await VllmServer.serving({
      python,
      model,
      loadFormat: 'dummy',
      extra: ['--weight-transfer-config', '{"backend":"ckpt"}'],
    })
    await using ranks = await LocalRanks.create(1)
    await ranks.register('first', model)
    const events: VllmEvent[] = []
    const engine = vllm({ url: server.url, parallelSize: 1, via: 'weight-transfer', onEvent: (event) => events.push(event) })
    for (const version of ['a', 'b']) {
      await ranks.update('first', { engine, version, bucketBytes: 16 * 1024, ringBytes: 256 * 1024 })
      expect(await server.complete()).toEqual(expected)
      expect(await engine.ready({ rank: 0, timeoutMs: 5000, signal: new AbortController().signal })).toEqual({
        version,
        dirty: false,
      })
    }
    expect(events.filter(({ kind }) => kind !== 'ready' && kind !== 'waiting')).toEqual([])
  })
})
