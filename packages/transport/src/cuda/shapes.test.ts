import { afterEach, beforeEach, describe, expect, it, type TestContext } from 'vitest'
import { planOf, testPlan } from '../host/pipeline.fixture.ts'
import { probeCuda } from './addon.ts'
import { createCudaDevice, type CudaDevice } from './device.ts'
import { group, runAll, runGroup } from './group.fixture.ts'

const MIB = 2 ** 20
const { devices: gpus } = await probeCuda()

let devices: CudaDevice[]
beforeEach(async () => {
  devices = await Promise.all(gpus.slice(0, 2).map(({ index }) => createCudaDevice({ index })))
})
afterEach(async () => {
  await Promise.all(devices.map((device) => device.close()))
})

function needs(context: TestContext, count: number): CudaDevice[] {
  if (gpus.length < count) context.skip(`${count} CUDA devices are needed, there are ${gpus.length}`)
  return devices.slice(0, count)
}

for (const members of [1, 2]) {
  describe(`gpu: ${members} member${members === 1 ? '' : 's'}`, () => {
    const small = (count: number) => Array.from({ length: count }, (_, b) => ({ owner: b % members, bytes: 3 * MIB + b }))

    it('takes a tensor that is larger than all other buckets and all chunks', async (context) => {
      const plan = planOf(members, 48 * MIB, [...small(6), { owner: members - 1, bytes: 41 * MIB + 5 }, ...small(7)])
      await runAll(plan, needs(context, members), { mode: 'pipelined', pinned: true })
    })

    it('goes through a ring that holds its largest bucket only, serially', async (context) => {
      const plan = planOf(members, 9 * MIB + 1, [...small(5), { owner: 0, bytes: 9 * MIB + 1 }, ...small(4)])
      await runAll(plan, needs(context, members), { mode: 'serial', pinned: true })
    })

    it('runs on GPUs that are all but full', async (context) => {
      const used = needs(context, members)
      const plan = testPlan(members, 12, 4 * MIB, 5 * MIB)
      const own = await group(plan, used, true)
      // Once, so that NCCL and the driver have allocated what they need at the first use.
      await runGroup(plan, used, own, { mode: 'serial' })
      const rest = await Promise.all(
        used.map(async (device) => device.createRing(Math.floor(((await device.memory()).free - 64 * MIB) / MIB) * MIB)),
      )
      for (const device of used) expect((await device.memory()).free).toBeLessThan(128 * MIB)
      await runGroup(plan, used, own, { mode: 'serial' })
      await Promise.all(rest.map((ring) => ring.close()))
      await Promise.all(own.map(({ collective }) => collective.close()))
      for (const { source } of own) source.close()
    })
  })
}

describe('gpu: unequal shares', () => {
  for (const [what, owners] of [
    ['ten times as much from one member', [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]],
    ['nothing from the other', [0, 0, 0, 0, 0, 0]],
    ['one after the other', [0, 0, 0, 0, 1, 1, 1, 1]],
  ] as const) {
    it(what, async (context) => {
      const plan = planOf(
        2,
        10 * MIB,
        owners.map((owner, b) => ({ owner, bytes: 2 * MIB + 4099 * b })),
      )
      await runAll(plan, needs(context, 2), { mode: 'pipelined', pinned: true, lateMs: 1 })
    })
  }
})

describe('gpu: the order of H2D and broadcasts', () => {
  it('is measured before the first run, is the same on all members, and is kept', async (context) => {
    const used = needs(context, 2)
    const plan = testPlan(2, 12, 64 * MIB, 256 * MIB)
    const members = await group(plan, used, true)
    const first = await runGroup(plan, used, members, { mode: 'pipelined', chunkBytes: 16 * MIB })
    const order = first[0]!.order!
    expect(order.measured).toHaveLength(order.linksShared ? 7 : 2)
    if (!order.linksShared) expect(order).toMatchObject({ name: 'overlapped', chunkBytes: 16 * MIB })
    for (const measured of order.measured) expect(measured.wholeMs).toBeGreaterThan(0)
    expect(first[1]!.order).toEqual(order)
    const second = await runGroup(plan, used, members, { mode: 'pipelined', chunkBytes: 16 * MIB })
    for (const stats of second) expect(stats.order).toEqual(order)
    await Promise.all(members.map(({ collective }) => collective.close()))
    for (const { source } of members) source.close()
  })

  it('is left alone where there is too little to measure by', async (context) => {
    for (const stats of await runAll(testPlan(2, 6, 3 * MIB, 16 * MIB), needs(context, 2), { mode: 'pipelined', pinned: true }))
      expect(stats.order).toBeUndefined()
  })

  it('ends on both sides when a member closes instead of measuring', async (context) => {
    const used = needs(context, 2)
    const plan = testPlan(2, 12, 64 * MIB, 256 * MIB)
    const members = await group(plan, used, true)
    const alone = runGroup(plan, used.slice(0, 1), members.slice(0, 1), { mode: 'pipelined' })
    const failed = alone.then(
      () => undefined,
      (error: unknown) => error,
    )
    await new Promise((resolve) => setTimeout(resolve, 300))
    await Promise.all(members.map(({ collective }) => collective.close()))
    expect(await failed).toMatchObject({ code: 'ABORTED' })
    for (const { source } of members) source.close()
  })
})
