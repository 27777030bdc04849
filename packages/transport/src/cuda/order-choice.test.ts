import type { PipelineOrder } from '@ckpt/contract'
import type { CudaDeviceHandle } from '@ckpt/native-cuda'
import { describe, expect, it } from 'vitest'
import { ChosenOrders } from './order-choice.ts'

const device = () => ({}) as CudaDeviceHandle
const order: PipelineOrder = { name: 'alternating', chunkBytes: 64, linksShared: true, reason: 'measured', measured: [] }

describe('orders that were chosen before', () => {
  const a = ChosenOrders.of(device())
  const b = ChosenOrders.of(device())
  const group = ['GPU-a', 'GPU-b']
  const sharedBy = (members: readonly ChosenOrders[], uuids = group) =>
    a.shared(
      uuids,
      members.map((member) => member.remembered),
    )

  it('count only where all members of the group remember the same', () => {
    sharedBy([a, b]).set(16, order)
    expect(sharedBy([a, b]).get(16)).toBeUndefined()
    b.shared(group, []).set(16, { ...order, name: 'overlapped' })
    expect(sharedBy([a, b]).get(16)).toBeUndefined()
    b.shared(group, []).set(16, order)
    expect(sharedBy([a, b]).get(16)).toEqual(order)
  })

  it('count for the same GPUs in the same places and the same chunks alone', () => {
    expect(sharedBy([a, b], ['GPU-b', 'GPU-a']).get(16)).toBeUndefined()
    expect(sharedBy([a, b]).get(32)).toBeUndefined()
  })
})
