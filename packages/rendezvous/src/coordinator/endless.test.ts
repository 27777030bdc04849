import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

import { expect, it, onTestFinished } from 'vitest'

import { joinRendezvous, startCoordinator } from '../index.ts'

const TOKEN = 'the secret of this run'
const MIB = 2 ** 20

it.each([
  ['a routing id of its own', 'member'],
  ['the routing id that it was given', ''],
])(
  'a member with %s that sends a message without an end is lost, and what it sent is freed',
  { timeout: 120_000 },
  async (_, id) => {
    const faults: unknown[] = []
    const options = {
      worldSize: 2,
      token: TOKEN,
      heartbeatMs: 100,
      heartbeatTimeoutMs: 2000,
      onFault: (one: unknown) => faults.push(one),
    }
    const coordinator = await startCoordinator({ address: 'tcp://127.0.0.1:0', ...options })
    onTestFinished(() => coordinator.close())
    const { address } = coordinator
    const rank = await joinRendezvous({ rank: 0, worldSize: 2, address, standalone: true, token: TOKEN, timeoutMs: 60_000 })
    onTestFinished(() => rank.close())
    const child = fork(fileURLToPath(new URL('../testing/endless.fixture.ts', import.meta.url)), [address, TOKEN, id], {
      execArgv: ['--import', 'tsx', '--conditions=@ckpt/source'],
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    await once(child, 'message')
    const before = process.memoryUsage.rss()
    const grown = () => (process.memoryUsage.rss() - before) / MIB
    const lost = rank.barrier('both', { timeoutMs: 60_000 }).catch((error: unknown) => error)
    const state = { over: false }
    void lost.then(() => (state.over = true))
    while (!state.over) {
      expect(await rank.allGather('mine', 1, { ranks: [0] })).toEqual([1])
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    expect(await lost).toMatchObject({ code: 'RANK_LOST', fields: { rank: 1 } })
    // One frame may still be on its way; the sending process is alive.
    await expect.poll(grown, { timeout: 20_000 }).toBeLessThan(100)
    await new Promise((resolve) => setTimeout(resolve, 1000))
    expect(grown()).toBeLessThan(100)
    expect(child.exitCode).toBeNull()
    expect(await rank.allGather('mine', 2, { ranks: [0] })).toEqual([2])
    expect(faults).toEqual([])
  },
)
