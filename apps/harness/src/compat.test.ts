import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { CkptError } from '@ckpt/contract'
import { probeCuda } from '@ckpt/transport'
import { describe, expect, it, type TestContext } from 'vitest'
import { Cluster } from './cluster/cluster.ts'
import { randomCheckpoint } from './compat/random-checkpoint.ts'

const local = fileURLToPath(new URL('../../../.venv/bin/python', import.meta.url))
const python = process.env['CKPT_PYTHON'] ?? (existsSync(local) ? local : 'python3')
const program = fileURLToPath(new URL('./compat/check_worker.py', import.meta.url))
const gpus = (await probeCuda().catch(() => undefined))?.devices.length ?? 0

/** Why the stock worker cannot run here, or undefined. */
const missing = ((): string | undefined => {
  try {
    execFileSync(python, ['-c', 'import torch, zmq, msgspec, safetensors, ckpt_worker, checkpoint_engine.worker'], {
      stdio: 'pipe',
    })
    return undefined
  } catch (error) {
    const text = String((error as { stderr?: Buffer }).stderr ?? error).trim()
    return `no stock worker: ${text.split('\n').at(-1)}`
  }
})()

const PROTOCOL = { protocol: 'checkpoint-engine', bucketBytes: 2 ** 20 } as const

/** `stand-in`: the stock worker over host memory (compat/stand_in_cuda.py); `cuda`: nothing stands in for anything. */
describe.each(['stand-in', 'cuda'] as const)("checkpoint-engine's stock worker, gpu: %s", { timeout: 120_000 }, (backend) => {
  const needs = (context: TestContext, ranks: number) => {
    if (missing !== undefined) context.skip(missing)
    if (backend === 'cuda' && gpus < ranks) context.skip(`${ranks} GPUs are needed, there are ${gpus}`)
  }
  const start = (ranks: number, extra: (rank: number) => readonly string[] = () => []) =>
    Cluster.start({
      ranks,
      timeoutMs: 20_000,
      heartbeatTimeoutMs: 1500,
      ...(backend === 'cuda' ? { backend: 'cuda' } : { standInCuda: true }),
      engine: {
        kind: 'python',
        python,
        program,
        checkpoint: '',
        extra: (rank) => [...(backend === 'cuda' ? [] : ['--stand-in-cuda']), ...extra(rank)],
      },
    })

  it.for([1, 2])('takes several updates of random dtypes and shapes bit for bit, on %d ranks', async (ranks, context) => {
    needs(context, ranks)
    await using cluster = await start(ranks)
    for (let turn = 0; turn < 3; turn++) {
      using checkpoint = await randomCheckpoint(40 + turn, 24 * 2 ** 20)
      const name = `step-${turn}`
      await cluster.register(name, checkpoint.directory)
      const [report] = await cluster.update(name, { ...PROTOCOL, keepAlive: turn === 1 })
      expect(report).toMatchObject({ version: name, tensors: checkpoint.tensors, verified: false })
      expect(report!.buckets).toBeGreaterThan(10)
      for (const engine of cluster.engines) {
        expect(await engine.verify(checkpoint.files)).toEqual({
          verified: true,
          parameters: checkpoint.tensors,
          bytes: checkpoint.bytes,
          mismatches: [],
        })
      }
      await cluster.all('unregister', () => ({ name }))
    }
  })

  it.for([1, 2])('that raises reaches every one of %d ranks with its traceback, and the next update works', async (ranks, context) => {
    needs(context, ranks)
    using checkpoint = await randomCheckpoint(7, 16 * 2 ** 20)
    await using cluster = await start(ranks, (rank) => (rank === ranks - 1 ? ['--fail-at-load', '4'] : []))
    await cluster.register('a', checkpoint.directory)
    const started = performance.now()
    const outcomes = await cluster.settle('update', (rank) => ({
      name: 'a',
      engineSocket: cluster.engines[rank]!.socket,
      ...PROTOCOL,
    }))
    expect(performance.now() - started).toBeLessThan(10_000)
    const errors = outcomes.map((outcome) => (outcome as PromiseRejectedResult).reason as CkptError)
    for (const [rank, error] of errors.entries()) {
      const own = rank === ranks - 1 ? error : (error.cause as CkptError)
      if (rank !== ranks - 1) expect(error).toMatchObject({ code: 'ABORTED' })
      expect(own).toMatchObject({ code: 'ENGINE_WORKER_ERROR', fields: { rank: ranks - 1 } })
      expect(own.fields.traceback).toContain('ValueError: injected failure in load 4')
      expect(own.fields.traceback).toMatch(/Traceback .*check_worker\.py/s)
    }
    await cluster.update('a', PROTOCOL)
    for (const engine of cluster.engines) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
  })

  it('that dies ends the update with a typed error at once, and a new worker works', async (context) => {
    needs(context, 1)
    using checkpoint = await randomCheckpoint(9, 16 * 2 ** 20)
    await using cluster = await start(1, () => ['--exit-at-load', '3'])
    await cluster.register('a', checkpoint.directory)
    const started = performance.now()
    const update = cluster.update('a', PROTOCOL)
    await expect(update).rejects.toMatchObject({ code: 'ENGINE_WORKER_LOST', fields: { rank: 0 } })
    expect(performance.now() - started).toBeLessThan(5000)
    await cluster.restartEngine(0, backend === 'cuda' ? [] : ['--stand-in-cuda'])
    await cluster.update('a', PROTOCOL)
    expect(await cluster.engines[0]!.verify(checkpoint.files)).toMatchObject({ verified: true })
  })

  it('is told when another rank gives up before it has the ring', async (context) => {
    needs(context, 2)
    using checkpoint = await randomCheckpoint(11, 4 * 2 ** 20)
    await using cluster = await start(2)
    await cluster.register('a', checkpoint.directory)
    // Rank 1's worker is told to connect nowhere: its rank finds no worker, and rank 0's is in the middle of its update.
    const outcomes = await cluster.settle('update', (rank) => ({
      name: 'a',
      engineSocket: cluster.engines[rank]!.socket,
      ...PROTOCOL,
      timeoutMs: 3000,
      ...(rank === 1 && { protocol: 'ckpt' as const, verify: false }),
    }))
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    await cluster.restartEngine(1, backend === 'cuda' ? [] : ['--stand-in-cuda'])
    await cluster.update('a', PROTOCOL)
    for (const engine of cluster.engines) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
  })
})
