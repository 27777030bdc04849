import { afterEach, beforeEach, describe, expect, it, type TestContext } from 'vitest'
import { CkptError, type PipelineRun } from '@ckpt/contract'
import { createHost } from '../host/host.ts'
import { memoryExchange, testJob, testPlan, testSource } from '../host/pipeline.fixture.ts'
import { probeCuda } from './addon.ts'
import { createCudaDevice, type CudaDevice } from './device.ts'
import { group, runAll } from './group.fixture.ts'
import { cudaRing } from './ring.ts'

const probe = await probeCuda()
const gpus = probe.devices.length

function needs(context: TestContext, count: number): void {
  if (gpus < count) context.skip(count === 1 ? 'no CUDA device' : `${count} CUDA devices are needed, there are ${gpus}`)
}

async function failure(promise: Promise<unknown>): Promise<CkptError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  if (!CkptError.is(error)) throw new Error(`not a CkptError: ${String(error)}`)
  return error
}

describe('probe', () => {
  it('says what there is, and of what is missing the names tried', () => {
    for (const [name, library] of [
      ['libcuda.so.1', probe.driver],
      ['libnccl.so.2', probe.nccl],
    ] as const) {
      expect(library.available).toBe(library.problem === undefined)
      expect(library.attempts.length).toBeGreaterThan(0)
      if (library.path === undefined) expect(library.problem).toContain(name)
      else expect(library.version).toBeGreaterThan(0)
    }
    if (!probe.driver.available) expect(probe.devices).toEqual([])
    for (const device of probe.devices) expect(device.uuid).toMatch(/^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
    expect(process.env['NCCL_NVLS_ENABLE']).toBe('0')
  })

  it('a device that is not there is refused with the reason', async () => {
    const error = await failure(createCudaDevice({ index: 99 }))
    expect(error.code).toBe(gpus === 0 ? 'ADDON_UNAVAILABLE' : 'INVALID_ARGUMENT')
    if (gpus === 0) expect(error.message).toContain(probe.driver.problem)
  })
})

describe('gpu: one device', () => {
  let device: CudaDevice
  beforeEach(async () => {
    if (gpus > 0) device = await createCudaDevice({ index: 0 })
  })
  afterEach(async () => {
    if (gpus > 0) await device.close()
  })

  it('reads device memory of this process into pinned memory', async (context) => {
    needs(context, 1)
    const [MIB, deviceUuid] = [1 << 20, device.uuid]
    const source = await device.host.allocate({ bytes: 64 * MIB })
    const target = await device.host.allocate({ bytes: 64 * MIB })
    await device.host.fill(source, { seed: 7n })
    const ring = await device.createRing(64 * MIB)
    const whole = [0, 0, 64 * MIB, 1, 0, 64 * MIB, 64 * MIB, 1]
    await device.copyStrided([source, ring], Float64Array.from(whole))
    const { pointer } = cudaRing(ring)
    const sources = [
      { kind: 'pointer', pointer, bytes: 64 * MIB, deviceUuid },
      { kind: 'pointer', pointer: pointer + 5n, bytes: 1000, deviceUuid },
    ] as const
    // All of it in runs of different length, the last one by a pointer into the middle.
    const reads = [0, 3, 1000, 40 * MIB + 1].map((offset, index, all) => {
      const bytes = (all[index + 1] ?? 64 * MIB) - offset
      return { source: 0, sourceOffset: offset, destination: 0, destinationOffset: offset, bytes }
    })
    const inner = { source: 1, sourceOffset: 0, destination: 0, destinationOffset: 5, bytes: 1000 }
    const stats = await device.readDevice({ sources, memories: [target], reads: [...reads, inner] })
    expect(stats.bytes).toBe(64 * MIB + 1000)
    expect(target.view(0, 64 * MIB).equals(source.view(0, 64 * MIB))).toBe(true)

    const outside = { ...inner, sourceOffset: 1 }
    const error = await failure(device.readDevice({ sources, memories: [target], reads: [inner, outside] }))
    expect([error.code, error.fields['read']]).toEqual(['INVALID_ARGUMENT', 1])
    const nowhere = { ...sources[0], pointer: 1n }
    const unknown = await failure(device.readDevice({ sources: [sources[1], nowhere], memories: [target], reads }))
    expect([unknown.code, unknown.fields['source']]).toEqual(['INVALID_ARGUMENT', 1])
    const elsewhere = { ...sources[0], deviceUuid: 'GPU-elsewhere' }
    expect((await failure(device.readDevice({ sources: [elsewhere], memories: [target], reads }))).message).toContain(
      'elsewhere',
    )
    for (const memory of [source, target]) memory.close()
  })

  it('gives rings that other processes can map, and takes their memory back', async (context) => {
    needs(context, 1)
    const before = await device.memory()
    const ring = await device.createRing((64 << 20) + 1)
    expect(ring.handle).toMatchObject({ kind: 'cuda', offset: 0, bytes: (64 << 20) + 1, deviceUuid: device.uuid })
    expect(ring.handle.kind === 'cuda' && ring.handle.handle).toHaveLength(64)
    expect((await device.memory()).free).toBeLessThanOrEqual(before.free - (64 << 20))
    await ring.close()
    await ring.close()
    expect((await device.memory()).free).toBe(before.free)
    expect((await failure(device.createRing(2 ** 45))).code).toBe('OUT_OF_MEMORY')
    expect((await failure(device.createRing(0))).code).toBe('INVALID_ARGUMENT')
  })

  it('pins host memory of every kind, and digests it like the host', async (context) => {
    needs(context, 1)
    const name = `ckpt-test-${process.pid}-cuda`
    const memories = [
      await device.host.allocate({ bytes: 3_000_001 }),
      await device.host.createShared(name, { bytes: 5 << 20 }),
      await device.host.mapFile(`/dev/shm/${name}`, { lock: true }),
    ]
    await device.host.fill(memories[0]!, { seed: 1n })
    await device.host.fill(memories[1]!, { seed: 2n })
    memories[1]!.unlink()
    const ranges = memories.flatMap((memory, index) => [
      { memory: index, offset: 0, bytes: memory.bytes },
      { memory: index, offset: 13, bytes: 70_001 },
      { memory: index, offset: 5, bytes: 0 },
    ])
    for (const memory of memories) expect(memory).toMatchObject({ locked: true, lockError: undefined })
    expect(await device.digest(memories, ranges)).toEqual(await createHost().digest(memories, ranges))
    const view = memories[0]!.view(0, 10)
    for (const memory of memories) memory.close()
    await device.host.settled()
    expect(view).toHaveLength(0)
    expect(() => memories[0]!.view(0, 1)).toThrow(expect.objectContaining({ code: 'INVALID_STATE' }))
  })

  it('copies rows between pinned memory and rings', async (context) => {
    needs(context, 1)
    const ring = await device.createRing(1 << 20)
    const source = await device.host.allocate({ bytes: 1 << 20 })
    await device.host.fill(source, { seed: 3n })
    const list = [
      [0, 0, 1024, 1, 0, 512, 512, 700],
      [0, 77, 1001, 1, 400_003, 333, 331, 900],
    ]
    expect(await device.copyStrided([source, ring], Float64Array.from(list.flat()))).toBe(512 * 700 + 331 * 900)
    const got = await device.download(ring, 0, 1 << 20)
    for (const [, from, sourcePitch, , to, pitch, bytes, rows] of list) {
      for (let row = 0; row < rows!; row++) {
        const expected = source.view(from! + row * sourcePitch!, bytes!)
        expect(got.subarray(to! + row * pitch!, to! + row * pitch! + bytes!).equals(expected)).toBe(true)
      }
    }
    const outside = device.copyStrided([source, ring], Float64Array.from([0, 0, 1024, 1, 0, 512, 512, 2000]))
    expect((await failure(outside)).code).toBe('INVALID_ARGUMENT')
    source.close()
  })

  for (const mode of ['pipelined', 'serial'] as const) {
    it(`runs a pipeline alone, ${mode}`, async (context) => {
      needs(context, 1)
      const plan = testPlan(1, 40, 3 << 20, 8 << 20)
      await runAll(plan, [device], { mode, pinned: mode === 'pipelined' })
    })
  }

  it('names the engine worker that does not release', async (context) => {
    needs(context, 1)
    const plan = testPlan(1, 10, 3 << 20, 8 << 20)
    const collective = await device.createCollective({ position: 0, size: 1, exchange: memoryExchange(1)(0), timeoutMs: 5000 })
    const ring = await device.createRing(plan.ringBytes)
    const source = await testSource(device.host, plan, 0)
    const run = await collective.run(testJob(plan, 0, ring, source, { onBucket: () => undefined, timeoutMs: 300 }))
    const error = await failure(run.finished)
    expect(error).toMatchObject({ code: 'TIMEOUT', fields: { peer: 'engine worker' } })
    expect((await failure(collective.run(testJob(plan, 0, ring, source, { onBucket: () => undefined })))).code).toBe(
      'INVALID_STATE',
    )
    source.close()
  })
})

describe('gpu: two devices', () => {
  let devices: CudaDevice[]
  beforeEach(async () => {
    devices = gpus < 2 ? [] : [await createCudaDevice({ index: 0 }), await createCudaDevice({ uuid: probe.devices[1]!.uuid })]
  })
  afterEach(async () => {
    await Promise.all(devices.map((device) => device.close()))
  })

  it('brings every bucket to both, with late workers', async (context) => {
    needs(context, 2)
    await runAll(testPlan(2, 60, 3 << 20, 16 << 20), devices, { mode: 'pipelined', pinned: true, lateMs: 3 })
  })

  it('refuses two members on one GPU', async (context) => {
    needs(context, 2)
    const exchange = memoryExchange(2)
    const joins = [0, 1].map((position) =>
      failure(devices[0]!.createCollective({ position, size: 2, exchange: exchange(position), timeoutMs: 5000 })),
    )
    for (const error of await Promise.all(joins)) expect(error.code).toBe('INVALID_ARGUMENT')
  })

  it('ends on both sides when one aborts, and a new group works', async (context) => {
    needs(context, 2)
    const plan = testPlan(2, 60, 3 << 20, 16 << 20)
    const members = await group(plan, devices, true)
    const runs = await Promise.all(
      members.map(({ collective, ring, source }, position): Promise<PipelineRun> =>
        collective.run(testJob(plan, position, ring, source, { onBucket: () => undefined, timeoutMs: 1500 })),
      ),
    )
    const reason = new CkptError('RANK_LOST', 'rank 1 is gone')
    await new Promise((resolve) => setTimeout(resolve, 100))
    const start = performance.now()
    runs[0]!.abort(reason)
    expect(await failure(runs[0]!.finished)).toBe(reason)
    expect(performance.now() - start).toBeLessThan(1000)
    expect((await failure(runs[1]!.finished)).code).toBe('TIMEOUT')
    await Promise.all(members.map(({ collective }) => collective.close()))
    for (const { source } of members) source.close()
    await runAll(plan, devices, { mode: 'serial', pinned: true })
  })
})
