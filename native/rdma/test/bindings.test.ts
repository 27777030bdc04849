// The addon on a machine that need not have a device; with one it is tested in a VM (docs/rdma.md).
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { loadRdma, openDevice, probeRdma, transfer } from '@ckpt/rdma-core-bindings'
import { describe, expect, it } from 'vitest'

const INDEX = fileURLToPath(new URL('../index.mjs', import.meta.url))
const request = { lanes: [], remotes: [], transfers: new Float64Array(0) }

describe('without a device', () => {
  it('loads, and says what is there or what is missing', async () => {
    expect(Object.keys(loadRdma())).toEqual(['probe', 'openDevice', 'transfer'])
    const { available, problem, devices } = await probeRdma()
    if (available) expect(problem).toBeUndefined()
    else expect(problem).toMatch(/libibverbs/)
    expect(Array.isArray(devices)).toBe(true)
  })

  it('names the device that is not there', async (context) => {
    if (!(await probeRdma()).available) return context.skip('no libibverbs, or no headers of it')
    await expect(openDevice('no_such_device')).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      field: 'device',
      message: expect.stringMatching(/no_such_device; this machine has/),
    })
    await expect(openDevice('a\0b')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', field: 'device' })
    await expect(openDevice('a', { completions: 0 })).rejects.toMatchObject({ field: 'completions' })
  })

  it('refuses batches without lanes, with broken rows, and with handles that are none of its own', async (context) => {
    if (!(await probeRdma()).available) return context.skip('no libibverbs, or no headers of it')
    await expect(transfer('read', request)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', field: 'lanes' })
    await expect(transfer('read', { ...request, transfers: new Float64Array(4) })).rejects.toMatchObject({ field: 'transfers' })
    await expect(transfer('read', { ...request, transfers: Float64Array.of(-1, 0, 0, 0, 0) })).rejects.toMatchObject({
      field: 'transfers',
    })
    const forged = { pair: { handle: {}, local: {} } as never, local: [], remoteKeys: [] }
    await expect(transfer('read', { ...request, lanes: [forged] })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      field: 'queue pair',
    })
  })

  it('hears of an abort before anything else', async () => {
    await expect(transfer('read', { ...request, signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' })
  })

  it('lives and dies in worker threads', async () => {
    const code = `import(${JSON.stringify(INDEX)}).then(async ({ probeRdma }) => { await probeRdma(); probeRdma(); process.exit(7) })`
    const workers = Array.from({ length: 4 }, () => new Worker(code, { eval: true }))
    expect(await Promise.all(workers.map((worker) => once(worker, 'exit')))).toEqual([[7], [7], [7], [7]])
  })
})
