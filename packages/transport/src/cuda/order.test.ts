import { describe, expect, it } from 'vitest'
import { memoryExchange } from '../host/pipeline.fixture.ts'
import { busiestOwnerBytes, chooseOrder, type OrderCandidate } from './order.ts'

const MIB = 2 ** 20
const job = { chunkBytes: 32 * MIB, busiestOwnerBytes: 2048 * MIB }

type Model = (candidate: OrderCandidate) => readonly [whole: number, h2d: number, broadcast: number]

/** Members whose links behave as in `models` choose together. */
async function choose(models: readonly Model[], of: Partial<typeof job> = {}) {
  const exchange = memoryExchange(models.length)
  const runs: OrderCandidate[] = []
  const orders = await Promise.all(
    models.map((model, position) =>
      chooseOrder(
        { members: models.length, ...job, ...of },
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

/** Milliseconds from rates in GB/s; `shared` is the speed-up of both at once over one after the other. */
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
    expect(order!.reason).toContain('use separate links')
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
    // Faster for only one member is not faster: all wait for the slowest.
    const alone = await choose([links(55, 29, large), links(50, 29, () => 1.05)])
    expect(alone.order).toMatchObject({ name: 'overlapped', chunkBytes: job.chunkBytes })
  })

  it('tells links apart by figures seen on two H200s, chunks of 32 and 16 MiB', async () => {
    const seen = (whole: number, apart: readonly [number, number, number]): Model => {
      return ({ name, bytes }) => [name === 'alternating' ? apart[0] : (whole * bytes) / (128 * MIB), apart[1], apart[2]]
    }
    const shared = async (model: Model, chunkMib: number) =>
      (await choose([model, model], { chunkBytes: chunkMib * MIB })).order!.linksShared
    // NVLink
    expect(await shared(seen(2.86, [3.31, 2.7, 0.55]), 32)).toBe(false)
    expect(await shared(seen(3.03, [3.81, 2.49, 1.21]), 16)).toBe(false)
    // NCCL_P2P_DISABLE=1
    expect(await shared(seen(6.61, [7.2, 2.54, 4.58]), 32)).toBe(true)
    expect(await shared(seen(10.37, [11.29, 2.55, 8.39]), 16)).toBe(true)
  })

  it('stops after the first look where slower links are separate, and where many members share fast ones', async () => {
    const separate: Model = ({ name, bytes, chunkBytes }) => {
      const [h2d, broadcast] = [bytes / 55e6, bytes / 45e6]
      return [name === 'alternating' ? h2d + broadcast : broadcast + (h2d * chunkBytes) / bytes, h2d, broadcast]
    }
    expect((await choose([separate, separate])).order!.linksShared).toBe(false)
    const eight = Array.from({ length: 8 }, () => links(55, 350 / 7, () => 1.6))
    expect((await choose(eight)).order!.linksShared).toBe(false)
  })

  it('does not measure by a job that is too small', async () => {
    const { order, runs } = await choose([links(55, 300, () => 1)], { busiestOwnerBytes: 63 * MIB })
    expect(order).toBeUndefined()
    expect(runs).toEqual([])
  })
})

it('busiestOwnerBytes counts by owner', () => {
  expect(busiestOwnerBytes({ owner: Uint32Array.of(0, 1, 1, 0), bytes: Float64Array.of(5, 3, 4, 1) }, 3)).toBe(7)
  expect(busiestOwnerBytes({ owner: new Uint32Array(0), bytes: new Float64Array(0) }, 2)).toBe(0)
})
