import { join } from 'node:path'
import { ParameterServer, type UpdateOptions } from '@ckpt/core'
import { vllm } from '@ckpt/vllm'
import { describe, expect, it } from 'vitest'
import { freePort } from '../cluster/cluster.ts'
import { vllmEnvironment } from './environment.ts'
import { expectedFromDisk } from './expected.ts'
import { generateModels, type ModelFamily } from './models.ts'
import { VllmServer } from './server.ts'

const environment = await vllmEnvironment()

/** `count` ranks in this process. */
async function ranks(count: number): Promise<ParameterServer[] & AsyncDisposable> {
  const rendezvous = `tcp://127.0.0.1:${await freePort()}`
  const servers = await Promise.all(
    Array.from({ length: count }, (_, rank) =>
      ParameterServer.create({ rank, worldSize: count, rendezvous, timeoutMs: 60_000, threads: 1 }),
    ),
  )
  return Object.assign(servers, {
    async [Symbol.asyncDispose]() {
      await Promise.all(servers.map((server) => server.close()))
    },
  })
}

async function registerAll(servers: readonly ParameterServer[], name: string, directory: string): Promise<void> {
  await servers[0]!.registerCheckpoint(name, { files: [join(directory, 'model.safetensors')] })
  await Promise.all(servers.map((server) => server.gatherMetas(name)))
}

const updateAll = (servers: readonly ParameterServer[], name: string, options: UpdateOptions) =>
  Promise.all(servers.map((server) => server.update(name, options)))

describe(`real vLLM (${'version' in environment ? environment.version : 'missing'})`, () => {
  it.for<{ family: ModelFamily; tensorParallelSize: number }>([
    { family: 'qwen3', tensorParallelSize: 1 },
    { family: 'qwen3-moe', tensorParallelSize: 1 },
    { family: 'llama-tied', tensorParallelSize: 2 },
  ])(
    '$family on $tensorParallelSize workers gives the tokens and log probabilities of the weights it was sent',
    async (shape, { skip }) => {
      if (environment.missing !== undefined) return skip(environment.missing)
      const { python } = environment
      const { family, tensorParallelSize } = shape
      using models = await generateModels(python, [
        { family, seed: 1 },
        { family, seed: 2 },
      ])
      const [first, second] = models.directories as [string, string]
      const expected = await expectedFromDisk(python, [first, second], tensorParallelSize)
      expect(expected[0]).not.toEqual(expected[1])

      await using server = await VllmServer.serving({ python, model: first, loadFormat: 'dummy', tensorParallelSize })
      const workers = server.workers()
      const before = await server.complete()
      for (const [index, { tokens }] of before.entries()) expect(tokens).not.toEqual(expected[0]![index]!.tokens)

      await using servers = await ranks(tensorParallelSize)
      await registerAll(servers, 'first', first)
      await registerAll(servers, 'second', second)
      const engine = vllm({ url: server.url, parallelSize: tensorParallelSize })
      for (const [name, index] of [
        ['first', 0],
        ['second', 1],
        ['first', 0],
      ] as const) {
        // Buckets far smaller than a layer: tensors of one layer come in several.
        const reports = await updateAll(servers, name, { engine, bucketBytes: 16 * 1024, ringBytes: 256 * 1024 })
        expect(reports[0]).toMatchObject({ verified: true, version: name })
        expect(reports[0]!.buckets).toBeGreaterThan(5)
        expect(await server.complete()).toEqual(expected[index])
      }
      expect(server.workers()).toEqual(workers)
    },
  )
})
