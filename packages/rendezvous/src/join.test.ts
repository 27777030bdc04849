import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'

import { CkptError, type Rendezvous } from '@ckpt/contract'
import { describe, expect, it, onTestFinished, vi } from 'vitest'

import { joinRendezvous, startCoordinator, type JoinOptions } from './index.ts'
import { Cluster, failure, freePort } from './testing/cluster.ts'

async function join(options: JoinOptions): Promise<Rendezvous> {
  const rendezvous = await joinRendezvous(options)
  onTestFinished(() => rendezvous.close())
  return rendezvous
}

describe('joining', () => {
  it('needs no address and no socket for a single rank', async () => {
    const only = await join({ rank: 0, worldSize: 1 })
    expect(await only.allGather('k', undefined)).toEqual([undefined])
    expect(await only.allGather('k', { deep: [1, 'two', new Uint8Array(3)] })).toMatchObject([
      { deep: [1, 'two', expect.anything()] },
    ])
    const blob = { digest: 'd', payload: Uint8Array.of(1, 2) }
    for (let n = 0; n < 3; n++) expect(await only.allGatherBlobs('b', blob)).toEqual([blob])
    await only.barrier('k')
    const epoch = await only.beginEpoch()
    only.abortEpoch(epoch, new CkptError('TIMEOUT', 'slow'))
    await new Promise((resolve) => epoch.signal.addEventListener('abort', resolve))
    expect(epoch.signal.reason).toMatchObject({
      code: 'ABORTED',
      fields: { rank: 0, epoch: epoch.id },
      cause: { code: 'TIMEOUT' },
    })
  })

  it.each([
    ['rank', { rank: 2, worldSize: 2 }],
    ['worldSize', { rank: 0, worldSize: 0 }],
    ['address', { rank: 0, worldSize: 2 }],
    ['address', { rank: 0, worldSize: 2, address: 'ipc://x' }],
    ['address', { rank: 0, worldSize: 2, address: 'tcp://host:99999' }],
    ['address', { rank: 0, worldSize: 2, address: 'tcp://192.0.2.1:4000', token: 't' }],
    ['token', { rank: 0, worldSize: 2, address: 'tcp://192.0.2.1:4000' }],
    ['token', { rank: 0, worldSize: 2, address: 'tcp://127.0.0.1:4000', bind: 'tcp://*:4000' }],
    ['heartbeatMs', { rank: 0, worldSize: 1, heartbeatMs: 0 }],
    ['heartbeatTimeoutMs', { rank: 0, worldSize: 1, heartbeatMs: 100, heartbeatTimeoutMs: 100 }],
    ['timeoutMs', { rank: 0, worldSize: 1, timeoutMs: Infinity }],
  ])('names the option %s when it is wrong: %o', async (field, options) => {
    expect(await failure(joinRendezvous(options))).toMatchObject({ code: 'INVALID_ARGUMENT', fields: { field } })
  })

  it('rejects a second process as the same rank, and a wrong token, by name', async () => {
    const coordinator = await startCoordinator({ address: 'tcp://localhost:0', worldSize: 2, token: 'right' })
    onTestFinished(() => coordinator.close())
    const options = { rank: 1, worldSize: 2, address: coordinator.address, standalone: true, token: 'right' }
    const first = await join(options)
    const twice = await failure(joinRendezvous(options))
    expect(twice).toMatchObject({ code: 'RENDEZVOUS_REJECTED', fields: { rank: 1 } })
    expect(twice.message).toContain(`rank 1 has already joined: process ${process.pid}`)
    const wrong = await failure(joinRendezvous({ ...options, rank: 0, token: 'wrong' }))
    expect(wrong).toMatchObject({ code: 'RENDEZVOUS_REJECTED', fields: { peer: coordinator.address, field: 'token' } })
    const { token: _, ...none } = options
    expect((await failure(joinRendezvous({ ...none, rank: 0, insecure: true }))).message).toContain('this rank has none')
    expect(await failure(joinRendezvous({ ...options, rank: 0, worldSize: 4 }))).toMatchObject({ code: 'RENDEZVOUS_REJECTED' })
    // After the first has left, its place is free.
    await first.close()
    await join(options)
  })

  it('waits for a coordinator that comes up later, until its deadline', async () => {
    const address = `tcp://127.0.0.1:${await freePort()}`
    const none = await failure(joinRendezvous({ rank: 1, worldSize: 2, address, timeoutMs: 200 }))
    expect(none).toMatchObject({ code: 'RANK_MISSING', fields: { ranks: [0] } })
    expect(none.message).toContain(address)
    const early = join({ rank: 1, worldSize: 2, address })
    await new Promise((resolve) => setTimeout(resolve, 200))
    const ranks = await Promise.all([join({ rank: 0, worldSize: 2, address }), early])
    await Promise.all(ranks.map((rank) => rank.barrier('k')))
  })

  it('waits also where something before the coordinator closes connections while it is down', async () => {
    const address = `tcp://127.0.0.1:${await freePort()}`
    let closed = 0
    let up = false
    const proxy = createServer((socket) => {
      if (!up) {
        closed++
        socket.destroy()
        return
      }
      const { hostname, port } = new URL(address)
      const on = connect(Number(port), hostname)
      for (const [a, b] of [
        [socket, on],
        [on, socket],
      ] as const)
        a.on('error', () => undefined)
          .on('close', () => b.destroy())
          .pipe(b)
    }).listen(0, '127.0.0.1')
    onTestFinished(() => void proxy.close())
    await once(proxy, 'listening')
    const front = `tcp://127.0.0.1:${(proxy.address() as AddressInfo).port}`
    const joining = join({ rank: 1, worldSize: 2, address: front, token: 'the secret of this run' })
    await vi.waitFor(() => expect(closed).toBeGreaterThan(6), { timeout: 10_000 })
    up = true
    const ranks = await Promise.all([join({ rank: 0, worldSize: 2, address, token: 'the secret of this run' }), joining])
    await Promise.all(ranks.map((rank) => rank.barrier('k')))
  })

  it('can be cancelled, as every wait can', async () => {
    const address = `tcp://127.0.0.1:${await freePort()}`
    const options = { rank: 1, worldSize: 2, address }
    const reason = new CkptError('TIMEOUT', 'enough')
    expect(await failure(joinRendezvous({ ...options, signal: AbortSignal.abort(reason) }))).toBe(reason)
    const controller = new AbortController()
    const joining = failure(joinRendezvous({ ...options, signal: controller.signal }))
    controller.abort()
    expect(await joining).toMatchObject({ code: 'ABORTED' })

    const ranks = await Promise.all([0, 1].map((rank) => join({ ...options, rank })))
    const cancelled = new AbortController()
    const waiting = failure(ranks[0]!.allGather('k', 'old', { signal: cancelled.signal }))
    cancelled.abort()
    expect(await waiting).toMatchObject({ code: 'ABORTED' })
    // Withdrawn calls are not counted.
    const [a, b] = await Promise.all([ranks[0]!.allGather('k', 'new'), ranks[1]!.allGather('k', 'other')])
    expect([a, b]).toEqual([
      ['new', 'other'],
      ['new', 'other'],
    ])
    const closing = failure(ranks[0]!.barrier('k'))
    await ranks[0]!.close()
    expect(await closing).toMatchObject({ code: 'INVALID_STATE' })
    expect(await failure(ranks[1]!.barrier('k'))).toMatchObject({ code: 'RANK_LOST', fields: { rank: 0 } })
  })
})

describe('a coordinator that dies', () => {
  it('is noticed by every rank: killed, stopped, or closed', async () => {
    const cluster = await Cluster.start(3)
    onTestFinished(() => cluster.kill())
    await cluster.join()
    const [id] = await cluster.all((rank) => rank.call('beginEpoch'))
    const others = cluster.ranks.slice(1)
    // Stopped: a short wait ends at its own deadline although nothing answers; a long one learns which rank is lost.
    cluster.ranks[0]!.child.kill('SIGSTOP')
    const short = failure(others[0]!.call('barrier', 'short', { timeoutMs: 50, ranks: [0, 1] }))
    const long = others.map((rank) => failure(rank.call('barrier', 'long', { timeoutMs: 30_000 })))
    expect(await short).toMatchObject({ code: 'RANK_MISSING', fields: { ranks: [0] } })
    for (const error of await Promise.all(long)) {
      expect(error).toMatchObject({ code: 'RANK_LOST', fields: { rank: 0 } })
      expect(error.message).toContain(cluster.address)
    }
    expect(await others[1]!.call('aborted', id!)).toMatchObject({ code: 'ABORTED', cause: { code: 'RANK_LOST' } })
    // It resumes, learns that they left, and lets them join again.
    await Promise.all(others.map((rank) => rank.call('close')))
    cluster.ranks[0]!.child.kill('SIGCONT')
    expect(await cluster.ranks[0]!.call('aborted', id!)).toMatchObject({ code: 'ABORTED', cause: { code: 'RANK_LOST' } })
    await Promise.all(others.map((rank, i) => rank.call('join', cluster.options(i + 1))))
    await cluster.all((rank) => rank.call('barrier', 'again'))

    const waiting = others.map((rank) => failure(rank.call('barrier', 'k')))
    await cluster.ranks[0]!.kill()
    for (const error of await Promise.all(waiting)) expect(error).toMatchObject({ code: 'RANK_LOST', fields: { rank: 0 } })
    await Promise.all(others.map((rank) => rank.call('close')))
    expect(await Promise.all(others.map((rank) => rank.exit()))).toEqual([0, 0])
  })

  it('tells its ranks when it closes', async () => {
    const coordinator = await startCoordinator({ address: 'tcp://127.0.0.1:0', worldSize: 2 })
    const rank = await join({ rank: 0, worldSize: 2, address: coordinator.address, standalone: true })
    const waiting = failure(rank.barrier('k'))
    await coordinator.close()
    const error = await waiting
    expect(error).toMatchObject({ code: 'RANK_LOST', fields: { peer: coordinator.address } })
    expect(error.message).toContain('has closed')
    expect(await failure(rank.beginEpoch())).toMatchObject({ code: 'RANK_LOST' })
  })
})
