import { createServer } from 'node:net'

import type { Waiting } from '@ckpt/contract'
import { describe, expect, it, onTestFinished } from 'vitest'

import { joinRendezvous } from './join.ts'
import { failure, freePort } from './testing/cluster.ts'
import { endpointsOf, isLoopback, parseAddress } from './wire/address.ts'

const hasIpv6 = await new Promise<boolean>((resolve) => {
  const server = createServer().once('error', () => resolve(false))
  server.listen(0, '::1', () => server.close(() => resolve(true)))
})

describe('addresses', () => {
  it('of every kind are taken apart, and what is none is refused', () => {
    for (const [host, address] of [
      ['::1', 'tcp://[::1]:1'],
      ['fe80::1%eth0', 'tcp://[fe80::1%eth0]:1'],
      ['fe80::1%wg-a.7', 'tcp://[fe80::1%wg-a.7]:1'],
      ['node-1.cluster', 'tcp://node-1.cluster:1'],
    ])
      expect(parseAddress(address!, 'x')).toEqual({ host, port: 1 })
    for (const address of ['tcp://::1:1', 'tcp://[::1]', 'tcp://[fe80::1%]:1', 'tcp://[::1%a b]:1', 'tcp://a:70000'])
      expect(() => parseAddress(address, 'x'), address).toThrow(/not tcp/)
  })

  it('of the loopback interface are known in every spelling', () => {
    const inside = ['localhost', '127.0.0.1', '127.9.9.9', '[::1]', '[0:0:0:0:0:0:0:1]', '[::ffff:127.0.0.1]']
    for (const host of inside) expect(isLoopback(`tcp://${host}:1`), host).toBe(true)
    for (const host of ['128.0.0.1', '[::2]', '[::]', '*', 'localhost.evil', '[fe80::1%lo]'])
      expect(isLoopback(`tcp://${host}:1`), host).toBe(false)
  })

  it('of localhost are both, also where nothing resolves it', async () => {
    expect(await endpointsOf('tcp://localhost:5')).toEqual(['tcp://127.0.0.1:5', 'tcp://[::1]:5'])
    await expect(endpointsOf('tcp://no-such-host.invalid:5')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })
})

describe('ranks', () => {
  const meet = async (address: string, more: { bind?: string } = {}) => {
    const options = { worldSize: 2, address, token: 'a secret of this test', timeoutMs: 20_000 }
    const ranks = await Promise.all([0, 1].map((rank) => joinRendezvous({ ...options, rank, ...(rank === 0 && more) })))
    onTestFinished(async () => {
      for (const rank of ranks.reverse()) await rank.close()
    })
    expect(await Promise.all(ranks.map((rank) => rank.allGather('x', rank.rank)))).toHaveLength(2)
  }

  it.each(['localhost', '127.0.0.1'])('meet at %s', async (host) => meet(`tcp://${host}:${await freePort()}`))

  it.for([
    ['::1', '[::1]', undefined],
    ['a name whose coordinator has only its second number', 'localhost', '[::1]'],
    ['every spelling of it', '[0:0:0:0:0:0:0:1]', undefined],
  ] as const)('meet at %s', async ([_, host, bind], { skip }) => {
    if (!hasIpv6) skip('this machine has no IPv6')
    const port = await freePort()
    await meet(`tcp://${host}:${port}`, bind === undefined ? {} : { bind: `tcp://${bind}:${port}` })
  })

  it('say what they wait for after a second, and what they found at the end', async () => {
    const said: Waiting[] = []
    const port = await freePort()
    const server = createServer().listen(port, '127.0.0.1')
    onTestFinished(() => void server.close())
    const options = { rank: 1, worldSize: 2, address: `tcp://localhost:${port}`, token: 'a secret', timeoutMs: 2500 }
    const error = await failure(joinRendezvous({ ...options, onWaiting: (waiting) => said.push(waiting) }))
    expect(error).toMatchObject({ code: 'RANK_MISSING', fields: { ranks: [0], rank: 1 } })
    for (const text of [error.message, said[0]!.what]) {
      expect(text).toContain(`tcp://127.0.0.1:${port} something accepts connections`)
      expect(text).toContain(`tcp://[::1]:${port}`)
    }
    expect(said[0]!.sinceMs).toBeGreaterThanOrEqual(990)
  })

  it('say which ranks they wait for: those that never joined, and those that are late', async () => {
    const said: Waiting[] = []
    const address = `tcp://127.0.0.1:${await freePort()}`
    const options = { worldSize: 3, address, token: 'a secret', timeoutMs: 20_000, onWaiting: (one: Waiting) => said.push(one) }
    const ranks = await Promise.all([0, 1].map((rank) => joinRendezvous({ ...options, rank })))
    onTestFinished(async () => {
      for (const rank of ranks.reverse()) await rank.close()
    })
    const error = await failure(ranks[0]!.allGather('weights', 0, { timeoutMs: 2500 }))
    expect(error).toMatchObject({ code: 'RANK_MISSING', fields: { ranks: [1, 2] } })
    expect(said).toHaveLength(1)
    expect(said[0]).toMatchObject({ rank: 0, ranks: [1, 2] })
    expect(said[0]!.what).toMatch(/rank 1 \(process \d+ on .*\), rank 2 \(never joined\) for value gather "weights"/)
  })

  it('go on while the wall clock jumps', async () => {
    const now = Date.now
    let jump = 0
    Date.now = () => now() + (jump = -jump * 2 || 3.6e6)
    onTestFinished(() => void (Date.now = now))
    const address = `tcp://127.0.0.1:${await freePort()}`
    const options = { worldSize: 2, address, token: 'a secret', timeoutMs: 20_000, heartbeatMs: 50, heartbeatTimeoutMs: 1000 }
    const ranks = await Promise.all([0, 1].map((rank) => joinRendezvous({ ...options, rank })))
    onTestFinished(async () => {
      for (const rank of ranks.reverse()) await rank.close()
    })
    await new Promise((resolve) => setTimeout(resolve, 1500))
    await Promise.all(ranks.map((rank) => rank.barrier('still here')))
  })
})
