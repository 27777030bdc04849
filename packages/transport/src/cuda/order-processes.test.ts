import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, type TestContext } from 'vitest'
import { probeCuda } from './addon.ts'
import type { OrderMessage, OrderRun } from './order.child.ts'

const EXEC_ARGV = ['--import', 'tsx', '--conditions=@ckpt/source']
const { devices } = await probeCuda()

function needsTwo(context: TestContext): void {
  if (devices.length < 2) context.skip(`2 CUDA devices are needed, there are ${devices.length}`)
}

/** Two members, a process and a GPU each; the parent only passes the exchange's values around. */
async function cluster(environment: NodeJS.ProcessEnv): Promise<(readonly OrderRun[])[]> {
  const children: ChildProcess[] = []
  const rounds = new Map<string, Map<number, unknown>>()
  const onExchange = (position: number, key: string, value: unknown): void => {
    const round = rounds.get(key) ?? new Map<number, unknown>()
    rounds.set(key, round.set(position, value))
    if (round.size < 2) return
    rounds.delete(key)
    for (const child of children) if (child.connected) child.send({ key, values: [round.get(0), round.get(1)] })
  }
  return Promise.all(
    [0, 1].map(async (position) => {
      const path = fileURLToPath(new URL('./order.child.ts', import.meta.url))
      const child = fork(path, [String(position), '2'], { execArgv: EXEC_ARGV, env: { ...process.env, ...environment } })
      children[position] = child
      let end: OrderMessage | undefined
      child.on('message', (message: OrderMessage) => {
        if (message.type === 'exchange') onExchange(position, message.key, message.value)
        else end = message
      })
      await once(child, 'exit')
      if (end?.type !== 'done') throw new Error(`member ${position}: ${JSON.stringify(end)}`)
      return end.runs
    }),
  )
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
