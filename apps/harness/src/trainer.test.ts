import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { ParameterServer, controlEngine } from '@ckpt/core'
import { createCudaDevice, probeCuda } from '@ckpt/transport'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  Cluster,
  EngineProcess,
  freePort,
  leftovers,
  pythonInterpreter,
  pythonLacks,
  pythonProblem,
  TrainerProcess,
} from '@ckpt/testing'

const noTrainer = pythonLacks('torch', 'zmq', 'msgspec', 'ckpt_worker.trainer', 'ckpt_reference')
const gpus = (await probeCuda()).devices.length
const noGpu =
  gpus === 0
    ? 'no CUDA device'
    : (noTrainer ?? pythonProblem('import torch; assert torch.cuda.is_available(), "a build of torch without CUDA"'))

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-trainer-'))
})
afterEach(() => {
  rmSync(directory, { recursive: true, force: true })
})

async function server(options: { device?: Awaited<ReturnType<typeof createCudaDevice>> } = {}): Promise<ParameterServer> {
  const rendezvous = `tcp://127.0.0.1:${await freePort()}`
  return ParameterServer.create({ rank: 0, worldSize: 1, rendezvous, timeoutMs: 60_000, ...options })
}

async function failure(promise: Promise<unknown>): Promise<CkptError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  if (!CkptError.is(error)) throw new Error(`not a CkptError: ${String(error)}`)
  return error
}

/** What a trainer has left behind; tests of other trainers may run. */
const left = (trainer: TrainerProcess): string[] => leftovers(new Set([trainer.process.child.pid!]))

describe('a Python trainer', () => {
  it('serves two ranks, step after step, and the engines hold its weights', { timeout: 180_000 }, async ({ skip }) => {
    if (noTrainer !== undefined) skip(`no Python trainer: ${noTrainer}`)
    const sockets = [0, 1].map((rank) => join(directory, `rank${rank}`))
    await using trainer = new TrainerProcess(
      pythonInterpreter(),
      sockets.map((socket) => [socket, ['cpu', 20, 64, 256]]),
    )
    await using cluster = await Cluster.start({
      ranks: 2,
      engine: { kind: 'python', python: pythonInterpreter(), checkpoint: '' },
    })
    for (const step of [1, 2]) {
      const expected = await trainer.step(step)
      expect(Object.keys(expected)).toHaveLength(42)
      const name = `step-${step}`
      const register = (rank: number) => ({ name, source: { trainer: sockets[rank]! }, options: { pool: 'shared' } as const })
      await cluster.all('register', register)
      await trainer.registered()
      const reports = await cluster.update(name)
      expect(reports[0]).toMatchObject({ verified: 'sources', version: name })
      for (const engine of cluster.engines) expect(await engine.digests()).toEqual(expected)
      await cluster.all('unregister', () => ({ name }))
    }
    expect(left(trainer)).toEqual([])
  })

  it('may have its shared memory used in place', { timeout: 60_000 }, async ({ skip }) => {
    if (noTrainer !== undefined) skip(`no Python trainer: ${noTrainer}`)
    const socket = join(directory, 'rank0')
    await using trainer = new TrainerProcess(pythonInterpreter(), [[socket, ['cpu', 5, 8, 8]]])
    await using ps = await server()
    const expected = await trainer.step(1)
    await ps.registerCheckpoint('a', { trainer: socket }, { inPlace: true })
    await trainer.registered()
    const [metas] = (await ps.gatherMetas('a', { digests: true })).ranks
    const names = Array.from({ length: metas!.tensors.count }, (_, index) => metas!.tensors.names.at(index))
    const digests = [...metas!.tensors.digests!].map((digest) => digest.toString(16).padStart(16, '0'))
    expect(Object.fromEntries(names.map((name, index) => [name, digests[index]]))).toEqual(expected)
    expect(metas!.segments[0]!.kind).toBe('file')
  })

  it('that dies while it is read from leaves nothing registered', { timeout: 60_000 }, async ({ skip }) => {
    if (noTrainer !== undefined) skip(`no Python trainer: ${noTrainer}`)
    const socket = join(directory, 'rank0')
    await using ps = await server()
    const { code, fields } = await failure(ps.registerCheckpoint('a', { trainer: socket }))
    expect([code, fields.peer, fields.errno]).toEqual(['CHECKPOINT_UNREADABLE', socket, 2])

    await using trainer = new TrainerProcess(pythonInterpreter(), [[socket, ['cpu', 5, 8, 8]]])
    await trainer.step(1)
    // All bytes are present, but the trainer ended before it could confirm that it kept them.
    const onProgress = (): void => void trainer.process.child.kill('SIGKILL')
    const error = await failure(ps.registerCheckpoint('a', { trainer: socket }, { onProgress }))
    expect([error.code, error.fields.peer]).toEqual(['CHECKPOINT_UNREADABLE', socket])
    expect((await failure(ps.unregisterCheckpoint('a'))).message).toMatch('not registered')
    for (const path of left(trainer)) rmSync(path)

    await using next = new TrainerProcess(pythonInterpreter(), [[socket, ['cpu', 5, 8, 8]]])
    await next.step(2)
    await ps.registerCheckpoint('a', { trainer: socket })
    await next.registered()
  })
})

describe('gpu: a Python trainer with CUDA tensors', () => {
  it('is read by CUDA IPC, from any GPU of the machine', { timeout: 180_000 }, async ({ skip }) => {
    if (noGpu !== undefined) skip(noGpu)
    const socket = join(directory, 'rank0')
    const other = `cuda:${gpus - 1}`
    await using trainer = new TrainerProcess(pythonInterpreter(), [
      [socket, ['cuda:0', 20, 1024, 1024], [other, 5, 512, 512], ['cpu', 3, 8, 8]],
    ])
    const device = await createCudaDevice({ index: 0 })
    const options = { kind: 'python', python: pythonInterpreter(), directory, checkpoint: '', tpRank: 0, tpSize: 1 } as const
    const engine = new EngineProcess({ ...options, extra: ['--device', 'cuda:0'] })
    try {
      await using ps = await server({ device })
      await engine.ready()
      for (const step of [1, 2]) {
        const expected = await trainer.step(step)
        await ps.registerCheckpoint('a', { trainer: socket })
        await trainer.registered()
        expect(await ps.update('a', { engine: controlEngine({ socket: engine.socket }) })).toMatchObject({
          verified: 'sources',
        })
        expect(await engine.digests()).toEqual(expected)
        await ps.unregisterCheckpoint('a')
      }
    } finally {
      await engine.process.stop()
      await device.close()
    }
  })

  it('cannot share expandable segments, and says what to set', { timeout: 60_000 }, async ({ skip }) => {
    if (noGpu !== undefined) skip(noGpu)
    const env = { PYTORCH_CUDA_ALLOC_CONF: 'expandable_segments:True' }
    await using trainer = new TrainerProcess(pythonInterpreter(), [[join(directory, 'rank0'), ['cuda:0', 1, 1024, 1024]]], env)
    await expect(trainer.step(1)).rejects.toThrow('PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False')
  })
})
