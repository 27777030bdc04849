import { describe, expect, it } from 'vitest'
import { memoryExchange } from '../host/pipeline.fixture.ts'
import { busiestOwnerBytes, chooseOrder, type OrderCandidate } from './order.ts'

const MIB = 2 ** 20
const job = { chunkBytes: 32 * MIB, busiestOwnerBytes: 2048 * MIB }

type Model = (candidate: OrderCandidate) => readonly [whole: number, h2d: number, broadcast: number]

/** Members whose links behave as `models` say choose together. */
async function choose(models: readonly Model[], of = job) {
  const exchange = memoryExchange(models.length)
  const runs: OrderCandidate[] = []
  const orders = await Promise.all(
    models.map((model, position) =>
      chooseOrder(
        of,
        (candidates) => {
          if (position === 0) runs.push(...candidates)
          return Promise.resolve(Float64Array.from(candidates.flatMap((candidate) => [...model(candidate)])))
        },
        exchange(position),
      ),
    ),
  )
  for (const order of orders) expect(order).toEqual(orders[0])
  return { order: orders[0], runs }
}

/** Milliseconds by rates in GB/s; `shared` is how much faster both at once are than one after the other. */
function links(h2d: number, broadcast: number, shared: (candidate: OrderCandidate) => number): Model {
  return (candidate) => {
    const times = [candidate.bytes / h2d / 1e6, candidate.bytes / broadcast / 1e6] as const
    const sum = times[0] + times[1]
    return [candidate.name === 'alternating' ? sum : sum / shared(candidate), ...times]
  }
}

describe('chooseOrder', () => {
  it('stops after the first look where the links are separate', async () => {
    const { order, runs } = await choose([links(55, 300, () => 1.15), links(55, 310, () => 1.15)])
    expect(order).toMatchObject({ name: 'overlapped', chunkBytes: job.chunkBytes, linksShared: false })
    expect(order!.reason).toContain('do not slow each other down')
    expect(runs).toHaveLength(3)
    expect(order!.measured.map(({ name }) => name)).toEqual(['overlapped', 'alternating'])
  })

  it('keeps overlapping where links are shared and nothing is clearly faster', async () => {
    const { order, runs } = await choose([
      links(55, 29, ({ chunkBytes }) => (chunkBytes === 128 * MIB ? 1.18 : 1.15)),
      links(55, 29, () => 1.16),
    ])
    expect(order).toMatchObject({ name: 'overlapped', chunkBytes: job.chunkBytes, linksShared: true })
    expect(order!.reason).toContain('none of 4 other orders')
    expect(runs).toHaveLength(8)
  })

  it('alternates where overlapping costs more than it gains', async () => {
    const { order } = await choose([links(55, 29, () => 0.8), links(55, 29, () => 1)])
    expect(order).toMatchObject({ name: 'alternating', linksShared: true })
    expect(order!.reason).toContain('the fastest of 5 orders')
  })

  it('takes another chunk size where that is faster for the slowest member', async () => {
    const large = ({ chunkBytes }: OrderCandidate) => (chunkBytes > job.chunkBytes ? 1.3 : 1.05)
    expect((await choose([links(55, 29, large), links(50, 29, large)])).order).toMatchObject({
      name: 'overlapped',
      chunkBytes: 4 * job.chunkBytes,
    })
    // Faster for one member only is not faster: all wait for the slowest.
    const alone = await choose([links(55, 29, large), links(50, 29, () => 1.05)])
    expect(alone.order).toMatchObject({ name: 'overlapped', chunkBytes: job.chunkBytes })
  })

  it('does not measure by a job that is too small', async () => {
    const { order, runs } = await choose([links(55, 300, () => 1)], { ...job, busiestOwnerBytes: 63 * MIB })
    expect(order).toBeUndefined()
    expect(runs).toEqual([])
  })
})

it('busiestOwnerBytes counts by owner', () => {
  expect(busiestOwnerBytes({ owner: Uint32Array.of(0, 1, 1, 0), bytes: Float64Array.of(5, 3, 4, 1) }, 3)).toBe(7)
  expect(busiestOwnerBytes({ owner: new Uint32Array(0), bytes: new Float64Array(0) }, 2)).toBe(0)
})
