import { describe, expect, it, type TestContext } from 'vitest'
import { probeCuda } from './addon.ts'
import { runMembers } from '../processes.fixture.ts'
import type { OrderRun, Place } from './order.child.ts'

const { devices } = await probeCuda()

function needsTwo(context: TestContext): void {
  if (devices.length < 2) context.skip(`2 CUDA devices are needed, there are ${devices.length}`)
}

/** Two members, each with its own process and GPU. */
async function cluster(environment: NodeJS.ProcessEnv): Promise<(readonly OrderRun[])[]> {
  const places = [0, 1].map((position) => ({ position, members: 2 }))
  const outcomes = await runMembers<Place, OrderRun[]>(new URL('./order.child.ts', import.meta.url), places, environment)
  return outcomes.map(({ end }, position) => {
    if (end?.type !== 'done') throw new Error(`member ${position}: ${JSON.stringify(end)}`)
    return end.result
  })
}

describe('gpu: the order that members in processes of their own choose', () => {
  it('is to overlap, found out in no time, where GPUs reach each other', async (context) => {
    needsTwo(context)
    if (devices[0]!.peerAccess[1] !== true) context.skip('the GPUs do not reach each other')
    const [runs, others] = await cluster({ NCCL_P2P_DISABLE: '0' })
    for (const { order } of [...runs!, ...others!]) expect(order).toEqual(runs![0]!.order)
    expect(runs![0]!.order, runs![0]!.order?.reason).toMatchObject({ name: 'overlapped', linksShared: false })
    // The first run measures, later ones do not.
    expect(runs![0]!.beginMs).toBeLessThan(40)
    expect(runs![2]!.beginMs).toBeLessThan(runs![0]!.beginMs)
  })

  it('is measured among several, and named, where broadcasts go through host memory', async (context) => {
    needsTwo(context)
    const [runs, others] = await cluster({ NCCL_P2P_DISABLE: '1' })
    const order = runs![0]!.order!
    for (const run of [...runs!, ...others!]) expect(run.order).toEqual(order)
    expect(order, order.reason).toMatchObject({ linksShared: true, measured: { length: 7 } })
    expect(order.reason).toContain('share links')
    expect(runs![0]!.beginMs).toBeLessThan(400)
  })
})
