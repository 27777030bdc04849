import { auto, broadcast } from '@ckpt/core'
import { vllm } from '@ckpt/vllm'
import { expect, it } from 'vitest'
import { generateModels, LocalRanks, vllmEnvironment, VllmServer } from '@ckpt/testing'
import { expectedFromDisk } from './expected.ts'

const environment = await vllmEnvironment()
const SMALL = { bucketBytes: 16 * 1024, ringBytes: 256 * 1024 }

it('real vLLM with --enable-lora answers as with the same weights from disk, without an adapter and with one', async ({
  skip,
}) => {
  if (environment.missing !== undefined) return skip(environment.missing)
  const { python } = environment
  using models = await generateModels(python, [
    { family: 'llama', seed: 1 },
    { family: 'llama', seed: 2 },
    { family: 'adapter', seed: 3 },
  ])
  const [first, second, adapter] = models.directories as [string, string, string]
  const plain = await expectedFromDisk(python, [first, second], 1, { lora: true })
  const adapted = await expectedFromDisk(python, [first, second], 1, { lora: true, adapter })
  expect(adapted).not.toEqual(plain)
  await using server = await VllmServer.serving({
    python,
    model: first,
    loadFormat: 'dummy',
    extra: ['--enable-lora', '--max-lora-rank', '8', '--lora-modules', `adapter=${adapter}`],
  })
  await using ranks = await LocalRanks.create(1)
  await ranks.register('first', first)
  await ranks.register('second', second)
  const engine = vllm({ url: server.url, parallelSize: 1 })
  for (const [turn, strategy] of [broadcast(), auto(), auto(), auto()].entries()) {
    const name = turn % 2 === 0 ? 'first' : 'second'
    const [report] = await ranks.update(name, { engine, strategy, ...SMALL })
    expect(report).toMatchObject({ version: name })
    expect(await server.complete(undefined, undefined, 'adapter'), `adapter, update ${turn}`).toEqual(adapted[turn % 2])
    expect(await server.complete(), `update ${turn}`).toEqual(plain[turn % 2])
  }
})
