import { readFileSync } from 'node:fs'
import { createHost } from '@ckpt/transport'
import { model } from '@ckpt/models'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  Cluster,
  type ClusterOptions,
  generateCheckpoint,
  type GeneratedCheckpoint,
  pythonInterpreter,
  pythonLacks,
  parametersPrefix,
} from '@ckpt/testing'

const host = createHost()
const MIB = 2 ** 20
const noWorker = pythonLacks('torch', 'zmq', 'msgspec', 'safetensors', 'ckpt_worker', 'ckpt_reference')

describe.each(['typescript', 'python'] as const)('direct updates of the %s engine', { timeout: 180_000 }, (kind) => {
  let before: GeneratedCheckpoint
  let after: GeneratedCheckpoint
  beforeAll(async () => {
    before = await generateCheckpoint(host, model('qwen3-30b-a3b'), 24 * MIB, 1n)
    after = await generateCheckpoint(host, model('qwen3-30b-a3b'), 24 * MIB, 1_000_000n, 'other')
  })
  afterAll(() => {
    before[Symbol.dispose]()
    after[Symbol.dispose]()
  })
  beforeEach(({ skip }) => {
    if (kind === 'python' && noWorker !== undefined) skip(`no Python worker: ${noWorker}`)
  })

  const start = (ranks: number) =>
    Cluster.start({
      ranks,
      timeoutMs: 30_000,
      engine: { kind, python: pythonInterpreter(), checkpoint: before.directory },
    })

  /** Registers in place, because peers must map what they read, and updates until the next update is direct. */
  const record = async (cluster: Cluster) => {
    await cluster.register('before', before.directory, { inPlace: true })
    return untilRecorded(cluster)
  }
  const untilRecorded = async (cluster: Cluster) => {
    for (let i = 0; i < 3; i++) {
      const [report] = await cluster.update('before', { strategy: 'direct' })
      if (report!.strategy === 'direct' || report!.direct?.recorded?.startsWith('recorded')) return report!
      expect(report).toMatchObject({ strategy: 'broadcast', direct: { fallback: expect.any(String) as string } })
    }
    throw new Error('no update was recorded')
  }

  it('leave nothing of a worker that dies afterwards mapped in any rank', async (context) => {
    if (kind === 'python') context.skip('how the memory of the other kind of worker is held makes no difference to the ranks')
    await using cluster = await start(2)
    await record(cluster)
    await cluster.update('before', { strategy: 'direct-required' })
    const prefix = parametersPrefix(cluster.engines[1]!.process.child.pid!)
    const mapped = () =>
      cluster.ranks.filter(({ process: { child } }) => readFileSync(`/proc/${child.pid}/maps`, 'utf8').includes(prefix))
    expect(mapped()).not.toEqual([])
    await cluster.engines[1]!.process.stop('SIGKILL')
    await expect.poll(mapped, { timeout: 3000 }).toEqual([])
    // Only the new worker's memory is mapped again.
    await cluster.restartEngine(1)
    await untilRecorded(cluster)
    await cluster.update('before', { strategy: 'direct-required' })
    expect(await cluster.engines[1]!.verify(before.files)).toMatchObject({ verified: true })
  })

  it.each([1, 2])('give %d engine workers the bytes of a staged update, and no other byte moves', async (ranks) => {
    await using cluster = await start(ranks)
    await record(cluster)
    await cluster.register('after', after.directory, { inPlace: true })
    await cluster.update('after')
    const staged = await Promise.all(cluster.engines.map((engine) => engine.digests()))
    for (const verify of [false, true]) {
      await Promise.all(cluster.engines.map((engine) => engine.poison()))
      const reports = await cluster.update('after', {
        strategy: 'direct-required',
        checkEvery: 0,
        verify,
        version: `v${verify}`,
      })
      for (const [rank, engine] of cluster.engines.entries()) {
        const report = reports[rank]!
        expect(report).toMatchObject({ strategy: 'direct', ringBytes: 0, buckets: 0, direct: { opaque: [] } })
        const { bytes } = report.direct!
        expect(bytes!.h2d).toBeLessThanOrEqual(bytes!.needed)
        if (ranks === 1) expect(bytes).toMatchObject({ needed: after.bytes, h2d: after.bytes, forwarded: 0 })
        else expect(bytes!.needed).toBeLessThan(after.bytes * 0.75)
        expect(await engine.digests()).toEqual(staged[rank])
        expect(await engine.verify(after.files)).toMatchObject({ verified: true, mismatches: [] })
        expect(await engine.health()).toMatchObject({ version: `v${verify}`, dirty: false })
      }
      // Every byte that is needed crosses one host link once.
      const sum = (value: (report: (typeof reports)[number]) => number) =>
        reports.reduce((all, report) => all + value(report), 0)
      expect(sum(({ direct }) => direct!.bytes!.h2d)).toBe(reports[0]!.direct!.bytes!.nodeNeeded)
      expect(sum(({ direct }) => direct!.bytes!.needed)).toBe(
        sum(({ direct }) => direct!.bytes!.h2d + direct!.bytes!.forwarded),
      )
      if (ranks > 1) expect(sum(({ direct }) => direct!.bytes!.forwarded)).toBeGreaterThan(0)
    }
    // The checks themselves can fail: the engines now hold `after`.
    expect(await cluster.engines[0]!.verify(before.files)).toMatchObject({ verified: false })
  })

  // The TypeScript engine has its own loader: only the Python worker replays.
  if (kind === 'python') {
    it('are replayed by a worker whose parameters cannot be shared, to the same bytes', async () => {
      await using cluster = await Cluster.start({
        ranks: 2,
        timeoutMs: 30_000,
        engine: {
          kind,
          python: pythonInterpreter(),
          checkpoint: before.directory,
          extra: (rank) => (rank === 1 ? ['--unshared'] : []),
        },
      })
      await record(cluster)
      await cluster.register('after', after.directory, { inPlace: true })
      await cluster.update('after')
      const staged = await Promise.all(cluster.engines.map((engine) => engine.digests()))
      for (const version of ['once', 'again']) {
        await Promise.all(cluster.engines.map((engine) => engine.poison()))
        const reports = await cluster.update('after', { strategy: 'direct', version })
        for (const [rank, engine] of cluster.engines.entries()) {
          expect(reports[rank]).toMatchObject({
            strategy: 'broadcast',
            version,
            verified: 'bytes',
            direct: { fallback: 'rank 1: this engine shares no memory', replayed: after.tensors },
          })
          expect(await engine.digests()).toEqual(staged[rank])
          expect(await engine.health()).toMatchObject({ version, dirty: false })
        }
      }
      await expect(cluster.update('after', { strategy: 'direct-required' })).rejects.toThrow(/shares no memory/)
    })
  }

  it('record anew when an engine worker was restarted, and repair one that a failed update left dirty', async () => {
    await using cluster = await start(2)
    await record(cluster)
    await cluster.update('before', { strategy: 'direct-required' })
    await cluster.restartEngine(1)
    const [again] = await cluster.update('before', { strategy: 'direct' })
    expect(again!.strategy).toBe('broadcast')
    expect(again!.direct!.fallback).toContain('rank 1')
    for (const engine of cluster.engines) expect(await engine.verify(before.files)).toMatchObject({ verified: true })
    await untilRecorded(cluster)
    const [direct] = await cluster.update('before', { strategy: 'direct-required' })
    expect(direct!.strategy).toBe('direct')
    for (const engine of cluster.engines) expect(await engine.verify(before.files)).toMatchObject({ verified: true })
  })
})

describe('direct updates', { timeout: 180_000 }, () => {
  let checkpoint: GeneratedCheckpoint
  beforeAll(async () => {
    checkpoint = await generateCheckpoint(host, model('qwen3-30b-a3b'), 24 * MIB, 9n, 'faults')
  })
  afterAll(() => checkpoint[Symbol.dispose]())

  const start = (more: Partial<ClusterOptions> = {}, extra: readonly string[] = []) =>
    Cluster.start({
      ranks: 2,
      timeoutMs: 10_000,
      heartbeatTimeoutMs: 1500,
      ...more,
      engine: { kind: 'typescript', checkpoint: checkpoint.directory, extra: (rank) => (rank === 1 ? extra : []) },
    })
  const verified = async (cluster: Cluster) => {
    for (const engine of cluster.engines) {
      expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
      expect(await engine.health()).toMatchObject({ dirty: false })
    }
  }

  it.each(['direct', 'broadcast'] as const)(
    'that fail leave the engine dirty under its old version, and the next update, %s, repairs it',
    async (strategy) => {
      await using cluster = await start({}, ['--fail-direct'])
      await cluster.register('a', checkpoint.directory, { inPlace: true })
      await cluster.update('a', { strategy: 'direct', version: 'old' })
      await Promise.all(cluster.engines.map((engine) => engine.poison()))
      const results = await cluster.settle('update', (rank) => ({
        name: 'a',
        engineSocket: cluster.engines[rank]!.socket,
        strategy: 'direct',
        version: 'new',
      }))
      for (const result of results) expect(result).toMatchObject({ status: 'rejected' })
      for (const engine of cluster.engines) expect(await engine.health()).toMatchObject({ version: 'old', dirty: true })
      const [report] = await cluster.update('a', { strategy, version: 'repaired' })
      expect(report).toMatchObject({ strategy, version: 'repaired' })
      await verified(cluster)
    },
  )

  it('go on after an engine worker died in one: staged and recorded, then direct', async () => {
    await using cluster = await start({}, ['--exit-direct'])
    await cluster.register('a', checkpoint.directory, { inPlace: true })
    await cluster.update('a', { strategy: 'direct' })
    const results = await cluster.settle('update', (rank) => ({
      name: 'a',
      engineSocket: cluster.engines[rank]!.socket,
      strategy: 'direct',
    }))
    for (const result of results) expect(result).toMatchObject({ status: 'rejected' })
    await cluster.restartEngine(1)
    const strategies = []
    for (let i = 0; i < 2; i++) strategies.push((await cluster.update('a', { strategy: 'direct' }))[0]!.strategy)
    expect(strategies).toEqual(['broadcast', 'direct'])
    await verified(cluster)
  })

  it('are staged, saying why, where parameters or the ranks’ memory cannot be shared', async () => {
    {
      await using cluster = await start({}, ['--unshared'])
      await cluster.register('a', checkpoint.directory, { inPlace: true })
      await cluster.update('a', { strategy: 'direct' })
      const [report] = await cluster.update('a', { strategy: 'direct' })
      expect(report).toMatchObject({
        strategy: 'broadcast',
        direct: { fallback: 'rank 1: this engine shares no memory' },
      })
      expect(report!.direct!.recorded).toBeUndefined()
      await verified(cluster)
      await expect(cluster.update('a', { strategy: 'direct-required' })).rejects.toThrow(/shares no memory/)
    }
    await using cluster = await start()
    await cluster.register('a', checkpoint.directory)
    await cluster.update('a', { strategy: 'direct' })
    const [report] = await cluster.update('a', { strategy: 'direct' })
    expect(report!.direct!.fallback).toMatch(/segment \d of rank \d is in memory that no other rank can map/)
    await verified(cluster)
  })

  it('read memory of other ranks that was made to be shared, and follow a checkpoint that is registered again', async () => {
    await using cluster = await start({ shareMemory: true })
    await cluster.register('a', checkpoint.directory, { pool: 'shared' })
    await cluster.update('a', { strategy: 'direct' })
    for (let i = 0; i < 2; i++) {
      await Promise.all(cluster.engines.map((engine) => engine.poison()))
      const [report] = await cluster.update('a', { strategy: 'direct-required', verify: i === 0 })
      expect(report!.strategy).toBe('direct')
      await verified(cluster)
      await cluster.all('unregister', () => ({ name: 'a' }))
      await cluster.register('a', checkpoint.directory, i === 0 ? {} : { pool: 'shared' })
    }
  })

  it('keep what they prepared from step to step, where each checkpoint comes into the memory of the one before', async () => {
    const next = await generateCheckpoint(host, model('qwen3-30b-a3b'), 24 * MIB, 77n, 'next')
    const larger = await generateCheckpoint(host, model('qwen3-30b-a3b'), 40 * MIB, 5n, 'larger')
    await using cluster = await start({ shareMemory: true })
    const { child } = cluster.engines[1]!.process
    const mapped = () =>
      cluster.ranks.filter(({ process }) =>
        readFileSync(`/proc/${process.child.pid}/maps`, 'utf8').includes(parametersPrefix(child.pid!)),
      ).length
    try {
      await cluster.register('step', checkpoint.directory, { pool: 'shared' })
      await cluster.update('step', { strategy: 'direct' })
      await cluster.update('step', { strategy: 'direct-required' })
      for (const { directory, files } of [next, checkpoint, next]) {
        await cluster.all('unregister', () => ({ name: 'step' }))
        expect(mapped()).toBe(2)
        await cluster.register('step', directory, { pool: 'shared' })
        expect(mapped()).toBe(2)
        await Promise.all(cluster.engines.map((engine) => engine.poison()))
        const [report] = await cluster.update('step', { strategy: 'direct-required', checkEvery: 0 })
        expect(report).toMatchObject({ strategy: 'direct', verified: 'bytes', ringBytes: 0 })
        for (const engine of cluster.engines) expect(await engine.verify(files)).toMatchObject({ verified: true })
      }
      // The pool grows: its old blocks go back to the system, so nobody may hold them mapped.
      await cluster.all('unregister', () => ({ name: 'step' }))
      await cluster.register('step', larger.directory, { pool: 'shared' })
      expect(mapped()).toBe(0)
      // Memory that goes back to the system takes everything with it.
      await cluster.all('unregister', () => ({ name: 'step' }))
      await cluster.register('private', next.directory)
      await cluster.update('private', { strategy: 'direct-required', checkEvery: 0 })
      expect(mapped()).toBe(2)
      await cluster.all('unregister', () => ({ name: 'private' }))
      expect(mapped()).toBe(0)
    } finally {
      next[Symbol.dispose]()
      larger[Symbol.dispose]()
    }
  })
})
