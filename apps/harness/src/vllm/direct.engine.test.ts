import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { direct } from '@ckpt/core'
import { vllm } from '@ckpt/vllm'
import { describe, expect, it } from 'vitest'
import { vllmEnvironment } from './environment.ts'
import { expectedFromDisk } from './expected.ts'
import { generateModels, type ModelFamily } from './models.ts'
import { LocalRanks } from './ranks.ts'
import { VllmServer } from './server.ts'

const environment = await vllmEnvironment()

/** vLLM's own fallback, which leaves the weights of linear layers where they are, as on GPUs (plain_linear.py). */
const PLAIN = { extension: 'plain_linear.PlainLinear', env: { PYTHONPATH: dirname(fileURLToPath(import.meta.url)) } }
/** Buckets of a recorded update that split layers. */
const SMALL = { bucketBytes: 16 * 1024, ringBytes: 256 * 1024 }

interface Case {
  readonly family: ModelFamily
  readonly workers: number
  readonly linears: 'packed' | 'plain'
  /** Least share of the bytes that workers need which no ring carries. */
  readonly share: number
}

describe('direct updates of real vLLM', () => {
  it.for<Case>([
    { family: 'qwen3', workers: 1, linears: 'plain', share: 1 },
    { family: 'qwen2-tied', workers: 1, linears: 'plain', share: 1 },
    { family: 'llama-tied', workers: 2, linears: 'plain', share: 1 },
    { family: 'qwen3-moe', workers: 1, linears: 'plain', share: 0.3 },
    { family: 'qwen3', workers: 1, linears: 'packed', share: 0.3 },
    { family: 'qwen3-moe', workers: 1, linears: 'packed', share: 0.2 },
  ])(
    'with $family on $workers worker(s), linear layers $linears, answer as with the same weights from disk',
    async ({ family, workers, linears, share }, { skip }) => {
      if (environment.missing !== undefined) return skip(environment.missing)
      const { python } = environment
      const mode = linears === 'plain' ? PLAIN : {}
      using models = await generateModels(
        python,
        [1, 2].map((seed) => ({ family, seed })),
      )
      const [first, second] = models.directories as [string, string]
      const expected = await expectedFromDisk(python, [first, second], workers, mode)
      expect(expected[0]).not.toEqual(expected[1])

      const start = { python, model: first, loadFormat: 'dummy', tensorParallelSize: workers, ...mode } as const
      await using server = await VllmServer.serving(start)
      await using ranks = await LocalRanks.create(workers)
      await ranks.register('first', first)
      await ranks.register('second', second)
      const engine = vllm({ url: server.url, parallelSize: workers })

      const [recorded] = await ranks.update('first', { engine, strategy: direct(), ...SMALL })
      expect(recorded).toMatchObject({
        strategy: 'broadcast',
        direct: { recorded: expect.stringMatching(/^recorded/) as string },
      })
      expect(await server.complete()).toEqual(expected[0])
      for (const [name, answers] of [
        ['second', expected[1]],
        ['first', expected[0]],
        ['second', expected[1]],
      ] as const) {
        const reports = await ranks.update(name, { engine, strategy: direct({ required: true }), ...SMALL, verify: true })
        const [report] = reports
        expect(report).toMatchObject({ strategy: 'direct', version: name, verified: true })
        const { bytes, opaque } = report!.direct!
        console.log(
          family,
          workers,
          linears,
          JSON.stringify({
            bytes,
            ring: report!.ringBytes,
            opaque: opaque.length,
            reasons: [...new Set(opaque.map((o) => o.reason))],
            routes: report!.direct!.routes,
            parameters: report!.direct!.parameters,
          }),
        )
        const written = bytes!.nodeNeeded / (bytes!.nodeNeeded + bytes!.opaque)
        expect(written).toBeGreaterThanOrEqual(share)
        if (share === 1) expect(report).toMatchObject({ ringBytes: 0, buckets: 0 })
        expect(await server.complete()).toEqual(answers)
      }
    },
  )
})
