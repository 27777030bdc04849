import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { engineOf, parseEngine } from './engine.ts'

const VARIABLES = ['RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'GROUP_RANK', 'NODE_RANK'] as const
let before: NodeJS.ProcessEnv
beforeEach(() => {
  before = { ...process.env }
  for (const name of VARIABLES) Reflect.deleteProperty(process.env, name)
  // The last rank of two machines with four ranks each.
  Object.assign(process.env, { RANK: '7', WORLD_SIZE: '8', LOCAL_RANK: '3', LOCAL_WORLD_SIZE: '4' })
})
afterEach(() => {
  process.env = before
})

describe('the engine that --engine names', () => {
  it.each([
    ['vllm=http://a:8000', {}, 'vllm', undefined, ['http://a:8000', 'http://a:8000']],
    ['vllm=http://node{node}:800{local_rank}', {}, 'vllm', undefined, ['http://node0:8000', 'http://node1:8003']],
    ['vllm=http://a:800{instance}', { parallelSize: 4 }, 'vllm', undefined, ['http://a:8000', 'http://a:8001']],
    ['vllm=/run/vllm-{node}.sock', {}, 'vllm', undefined, ['/run/vllm-0.sock', '/run/vllm-1.sock']],
    ['checkpoint-engine=https://a', {}, 'vllm', 'checkpoint-engine', ['https://a', 'https://a']],
    ['sglang=http://a:30000', {}, 'sglang', 'checkpoint-engine', ['http://a:30000', 'http://a:30000']],
    ['sglang-plugin=http://a:30000', {}, 'sglang', 'ckpt', ['http://a:30000', 'http://a:30000']],
    ['control=/run/{rank}.sock', {}, 'control', undefined, ['/run/0.sock', '/run/7.sock']],
  ])('%s with %o has an address for each rank', (text, more, name, protocol, [first, last]) => {
    const engine = engineOf({ engine: parseEngine(text), ...more }, 8, () => undefined)
    expect(engine).toMatchObject({ name, ...(protocol !== undefined && { protocol }) })
    expect([engine.where!(0), engine.where!(7)]).toEqual([first, last])
  })

  it('is the one of --engine-control too, relative to where the command was called', () => {
    process.env['INIT_CWD'] = '/somewhere'
    const engine = engineOf({ engineControl: 'e-{rank}.sock' }, 8, () => undefined)
    expect(engine).toMatchObject({ name: 'control' })
    expect(engine.where!(7)).toBe('/somewhere/e-7.sock')
  })

  it.each([
    ['vllm=http://a:8000', 8],
    ['vllm=http://node{node}:8000', 4],
    ['vllm=http://a:800{rank}', 1],
  ])('%s has as many workers as ranks with one address: %d', async (text, workers) => {
    const engine = engineOf({ engine: parseEngine(text) }, 8, () => undefined)
    const endpoints = Array.from({ length: 2 * workers + 1 }, (_, rank) => ({ rank, deviceUuid: '', address: '' }))
    const limits = { token: '', timeoutMs: 1000, signal: new AbortController().signal }
    // One rank too many for whole engines.
    if (workers > 1)
      await expect(engine.start({ rank: 0, endpoints, ...limits })).rejects.toThrow(`engine instances of ${workers}`)
    // Another rank than the first of an engine leaves the call to that one.
    const whole = endpoints.slice(0, 2 * workers)
    if (workers > 1) expect(await engine.start({ rank: workers + 1, endpoints: whole, ...limits })).toEqual({})
  })
})
