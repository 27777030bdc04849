// The addon with whatever UCX is here; without one, that is reported.
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { createUcxWorker, loadUcx, probeUcx, transfer, ucxBuildInfo } from '@ckpt/native-ucx'
import { describe, expect, it, type TestContext } from 'vitest'

const INDEX = fileURLToPath(new URL('../index.mjs', import.meta.url))
const transports = 'tcp,cma'

/** Skips the test where UCX is missing. */
async function needsUcx(context: TestContext): Promise<void> {
  const { available, problem } = await probeUcx()
  if (!available) context.skip(problem)
}

describe('UCX bindings', () => {
  it('load, and say what is there or what is missing', async () => {
    expect(Object.keys(loadUcx())).toEqual(['probe', 'createWorker', 'transfer'])
    const { available, problem, version, path } = await probeUcx()
    if (available) expect([problem, version, path]).toEqual([undefined, expect.stringMatching(/^1\.\d+/), expect.any(String)])
    else expect(problem).toMatch(/UCX/)
    expect(available && ucxBuildInfo().without.length > 0).toBe(false)
  })

  it('read and write between two workers, and refuse handles and rows that are none of their own', async (context) => {
    await needsUcx(context)
    const [owner, reader] = [await createUcxWorker({ transports }), await createUcxWorker({ transports })]
    const theirs = Buffer.from(Array.from({ length: 10_000 }, (_, index) => (index * 7) % 251))
    const ours = Buffer.alloc(10_000)
    const [region, local] = [await owner.registerMemory(theirs), await reader.registerMemory(ours)]
    const connection = await reader.connect(owner.address, { timeoutMs: 20_000 })
    expect(owner.transports).toContain('tcp/lo')
    expect(connection.transports).toEqual([expect.stringMatching(/^tcp\/\w+$/)])
    const request = { connection, remotes: [region], local: [local], transfers: Float64Array.of(0, 0, 0, 0, 10_000) }
    expect(await transfer('read', request)).toBe(10_000)
    expect(ours.equals(theirs)).toBe(true)
    ours.fill(9)
    expect(await transfer('write', { ...request, transfers: Float64Array.of(0, 3, 0, 0, 2) })).toBe(2)
    expect([...theirs.subarray(2, 6)]).toEqual([14, 9, 9, 35])

    await expect(transfer('read', { ...request, signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' })
    await expect(transfer('read', { ...request, transfers: new Float64Array(4) })).rejects.toMatchObject({ field: 'transfers' })
    await expect(transfer('read', { ...request, local: [] })).rejects.toMatchObject({ field: 'transfers' })
    await expect(transfer('read', { ...request, local: [{ handle: {} } as never] })).rejects.toMatchObject({ field: 'region' })
    await expect(transfer('read', { ...request, local: [region] })).rejects.toMatchObject({ field: 'local' })
    connection.close()
    await expect(transfer('read', request)).rejects.toMatchObject({ code: expect.stringMatching(/PEER_LOST|ABORTED/) })
    await Promise.all([owner.close(), reader.close()])
    await expect(reader.registerMemory(ours)).rejects.toMatchObject({ code: 'INVALID_STATE' })
  })

  it('live and die in worker threads', async (context) => {
    await needsUcx(context)
    const code = `import(${JSON.stringify(INDEX)}).then(async ({ createUcxWorker }) => {
      await createUcxWorker({ transports: '${transports}' })
      process.exit(7)
    })`
    const workers = Array.from({ length: 2 }, () => new Worker(code, { eval: true }))
    expect(await Promise.all(workers.map((worker) => once(worker, 'exit')))).toEqual([[7], [7]])
  })
})
