import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, it } from 'vitest'
import { generateModels, LocalRanks, type ModelFamily, vllmEnvironment, VllmServer } from '@ckpt/testing'
import { expectDirect, expectReplay } from './direct-updates.fixture.ts'
import { expectedFromDisk } from './expected.ts'

const environment = await vllmEnvironment()

/** vLLM's own fallback, which does not move the weights of linear layers, as on GPUs (plain_linear.py). */
const PLAIN = { extension: 'plain_linear.PlainLinear', env: { PYTHONPATH: dirname(fileURLToPath(import.meta.url)) } }
interface Case {
  readonly family: ModelFamily
  readonly workers: number
  /** Bounds of the fraction of the workers' bytes that bypass the ring. */
  readonly share: readonly [least: number, most: number]
}

describe('direct updates of real vLLM', () => {
  it.for<Case>([
    { family: 'qwen2-tied', workers: 1, share: [1, 1] },
    { family: 'llama-tied', workers: 2, share: [1, 1] },
    // vLLM's CPU backend repacks experts.
    { family: 'qwen3-moe', workers: 1, share: [0.5, 0.6] },
  ])('with $family on $workers worker(s) answer as with the same weights from disk', async (shape, { skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    const { family, workers, share } = shape
    const { python } = environment
    using models = await generateModels(
      python,
      [1, 2].map((seed) => ({ family, seed })),
    )
    const [first, second] = models.directories as [string, string]
    const expected = await expectedFromDisk(python, [first, second], workers, PLAIN)
    const start = { python, model: first, loadFormat: 'dummy', tensorParallelSize: workers, ...PLAIN } as const
    await using server = await VllmServer.serving(start)
    await using ranks = await LocalRanks.create(workers)
    await ranks.register('first', first)
    await ranks.register('second', second)
    await expectDirect({ server, ranks, expected, share })
    await expectReplay({ server, ranks, expected })
  })
})
