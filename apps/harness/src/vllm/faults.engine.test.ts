import { setTimeout as sleep } from 'node:timers/promises'
import { CkptError, type EngineAdapter } from '@ckpt/contract'
import { broadcast } from '@ckpt/core'
import { vllm, type VllmEvent } from '@ckpt/vllm'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type Completion,
  generateModels,
  LocalRanks,
  type TinyModels,
  vllmEnvironment,
  VllmServer,
  type VllmServerOptions,
} from '@ckpt/testing'
import { expectedFromDisk } from './expected.ts'

const environment = await vllmEnvironment()
const KEY = 'a key of this test'
const SMALL = { strategy: broadcast(), bucketBytes: 16 * 1024, ringBytes: 256 * 1024 }

async function failure(promise: Promise<unknown>): Promise<{ error: CkptError; milliseconds: number }> {
  const started = performance.now()
  try {
    await promise
  } catch (error) {
    if (CkptError.is(error)) return { error, milliseconds: performance.now() - started }
    throw error
  }
  throw new Error('nothing failed')
}

describe('real vLLM, when something goes wrong', () => {
  let models: TinyModels
  let expected: readonly (readonly Completion[])[]
  let server: VllmServer
  let ranks: LocalRanks
  let options: VllmServerOptions
  const events: VllmEvent[] = []
  const adapter = (more: Partial<Parameters<typeof vllm>[0]> = {}) =>
    vllm({ url: server.url, parallelSize: 1, engineKey: KEY, onEvent: (event) => events.push(event), ...more })
  const paused = async () => ((await (await fetch(`${server.url}/is_paused`)).json()) as { is_paused: boolean }).is_paused

  /** The next correct update succeeds, and the engine answers as it does with those weights from disk. */
  const recovers = async (name: 'first' | 'second') => {
    await ranks.update(name, { engine: adapter(), ...SMALL })
    expect(await paused()).toBe(false)
    expect(await server.complete()).toEqual(expected[name === 'first' ? 0 : 1])
  }

  beforeAll(async () => {
    if (environment.missing !== undefined) return
    const { python } = environment
    models = await generateModels(python, [
      { family: 'qwen3', seed: 1 },
      { family: 'qwen3', seed: 2 },
      // Its second layer has another width, its last layer is missing.
      { family: 'qwen3', seed: 3, config: { intermediate_size: 96 } },
      { family: 'qwen3', seed: 4, config: { num_hidden_layers: 1 } },
    ])
    expected = await expectedFromDisk(python, models.directories.slice(0, 2), 1)
    options = { python, model: models.directories[0]!, loadFormat: 'dummy', env: { CKPT_ENGINE_KEY: KEY } }
    server = await VllmServer.start(options)
    ranks = await LocalRanks.create(1)
    for (const [index, name] of ['first', 'second', 'wide', 'short'].entries()) {
      await ranks.register(name, models.directories[index]!)
    }
  })

  afterAll(async () => {
    if (environment.missing !== undefined) return
    await ranks[Symbol.asyncDispose]()
    await server.stop()
    models[Symbol.dispose]()
  })

  it('waits for an engine that is starting, and tells of it', async ({ skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    const early = await failure(ranks.update('first', { engine: adapter(), timeoutMs: 1500 }))
    expect(early.error).toMatchObject({ code: 'ENGINE_UNREACHABLE', fields: { peer: server.url } })
    expect(early.milliseconds).toBeLessThan(4000)
    await ranks.update('first', { engine: adapter(), timeoutMs: 300_000, ...SMALL })
    expect(events.filter(({ kind }) => kind === 'waiting').length).toBeGreaterThan(2)
    expect(await server.complete()).toEqual(expected[0])
  })

  it('lets a request that is running go on with the new weights', async ({ skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    const long = server.post('/v1/completions', {
      model: options.model,
      prompt: [7, 8, 9],
      max_tokens: 200,
      temperature: 0,
      ignore_eos: true,
    })
    await sleep(300)
    await recovers('second')
    const { usage } = JSON.parse(await long) as { usage: { completion_tokens: number } }
    expect(usage.completion_tokens).toBe(200)
  })

  it('reports a worker that raises in the middle, with its traceback, and keeps requests away from mixed weights', async ({
    skip,
  }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    const { error, milliseconds } = await failure(ranks.update('wide', { engine: adapter(), ...SMALL }))
    expect(error).toMatchObject({
      code: 'ENGINE_WORKER_ERROR',
      fields: { rank: 0, tensor: expect.stringMatching(/mlp/) as string },
    })
    expect(error.fields.traceback).toMatch(/weight_loader|load_weights/)
    expect(milliseconds).toBeLessThan(30_000)
    await expect.poll(() => events.some(({ kind }) => kind === 'left-paused'), { timeout: 20_000 }).toBe(true)
    expect(await paused()).toBe(true)
    await recovers('first')
  })

  it('refuses a checkpoint that leaves parameters as they were', async ({ skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    const { error } = await failure(ranks.update('short', { engine: adapter(), ...SMALL }))
    expect(error.code).toBe('ENGINE_WORKER_ERROR')
    expect(error.message).toMatch(/has no tensors for \d+ parameters of the model: model\.layers\.1\./)
    await recovers('second')
  })

  it('turns away a wrong token, a wrong key and a missing extension, and serves on', async ({ skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    const engine = adapter()
    const impostor: EngineAdapter = {
      name: 'vllm',
      ready: (ready) => engine.ready(ready),
      start: (start) => engine.start({ ...start, token: 'wrong' }),
    }
    const token = await failure(ranks.update('first', { engine: impostor, ...SMALL }))
    expect(token.error).toMatchObject({ code: 'ENGINE_UNAUTHORIZED' })
    expect(token.error.message).toMatch(/token/)
    const key = await failure(ranks.update('first', { engine: adapter({ engineKey: 'not the key of this test' }) }))
    const none = await failure(ranks.update('first', { engine: adapter({ engineKey: false }) }))
    for (const { error } of [key, none]) {
      expect(error.code).toBe('ENGINE_UNAUTHORIZED')
      expect(error.message).toMatch(/CKPT_ENGINE_KEY/)
    }
    const stock = await failure(ranks.update('first', { engine: adapter({ via: 'checkpoint-engine' }) }))
    expect(stock.error.code).toBe('UNSUPPORTED')
    for (const { milliseconds } of [token, key, none, stock]) expect(milliseconds).toBeLessThan(15_000)
    // Nothing was loaded: requests continue with the previous weights.
    await expect.poll(paused, { timeout: 20_000 }).toBe(false)
    expect(await server.complete()).toEqual(expected[1])
    await recovers('first')
  })

  it('tells the second of two servers that the engine is busy', async ({ skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    await using others = await LocalRanks.create(1)
    await others.register('second', models.directories[1]!)
    let second: Promise<{ error: CkptError; milliseconds: number }> | undefined
    await ranks.update('first', {
      engine: adapter(),
      ...SMALL,
      onProgress: () => {
        second ??= failure(others.update('second', { engine: adapter(), ...SMALL }))
      },
    })
    const { error, milliseconds } = await second!
    expect(error.code).toBe('ENGINE_BUSY')
    expect(milliseconds).toBeLessThan(10_000)
    expect(await server.complete()).toEqual(expected[0])
    await others.update('second', { engine: adapter(), ...SMALL })
    expect(await server.complete()).toEqual(expected[1])
  })

  it('notices a worker that is killed in the middle, and updates the engine that takes its place', async ({ skip }) => {
    if (environment.missing !== undefined) return skip(environment.missing)
    let killed = false
    const { error, milliseconds } = await failure(
      ranks.update('first', {
        engine: adapter(),
        ...SMALL,
        onProgress: () => {
          if (killed) return
          killed = true
          for (const pid of server.workers()) process.kill(pid, 'SIGKILL')
        },
      }),
    )
    expect(killed).toBe(true)
    expect(error.code).toBe('ENGINE_WORKER_LOST')
    expect(milliseconds).toBeLessThan(60_000)
    await server.stop()
    server = await VllmServer.serving(options)
    await recovers('first')
  })
})
