import type { Rendezvous } from '@ckpt/contract'
import { describe, expect, it, onTestFinished } from 'vitest'

import { joinRendezvous, startCoordinator, type CoordinatorHandle, type JoinOptions } from './index.ts'
import { Cluster, failure, freePort } from './testing/cluster.ts'

const QUICK = { heartbeatMs: 50, heartbeatTimeoutMs: 600, token: 'the secret of this run' }

describe('a rank that died', () => {
  it('may come back at once: the new incarnation waits until the old one is found dead', async () => {
    const cluster = await Cluster.start(3)
    onTestFinished(() => cluster.kill())
    await cluster.join()
    await cluster.ranks[2]!.kill()
    const again = await member({ ...cluster.options(2), timeoutMs: 10_000 })
    const answers = await Promise.all([
      again.allGather('k', 'new'),
      ...[0, 1].map((rank) => cluster.ranks[rank]!.call('allGather', 'k', 'old')),
    ])
    expect(answers).toEqual(Array(3).fill(['old', 'old', 'new']))
  })

  it('does not take the place of one that lives, however long it asks', async () => {
    const coordinator = await coordinate(2)
    const options = { worldSize: 2, address: coordinator.address, standalone: true, ...QUICK }
    const first = await member({ ...options, rank: 1 })
    const started = performance.now()
    const asking = await Promise.all([1, 2, 3].map(() => failure(joinRendezvous({ ...options, rank: 1, timeoutMs: 30_000 }))))
    // Long before their own timeout.
    expect(performance.now() - started).toBeLessThan(15_000)
    for (const error of asking) expect(error).toMatchObject({ code: 'RENDEZVOUS_REJECTED', fields: { rank: 1 } })
    const other = await member({ ...options, rank: 0 })
    expect(await Promise.all([first, other].map((rank) => rank.allGather('k', rank.rank)))).toEqual(Array(2).fill([0, 1]))
  })
})

describe('ranks that are added', () => {
  it('make the world larger, for those who joined before as well', async () => {
    const address = `tcp://127.0.0.1:${await freePort()}`
    const options = { worldSize: 1, address, elastic: true, ...QUICK }
    const ranks = [await member({ ...options, rank: 0 })]
    expect(await ranks[0]!.allGather('k', 0)).toEqual([0])
    for (const size of [2, 3, 5]) {
      while (ranks.length < size) ranks.push(await member({ ...options, rank: ranks.length, worldSize: size }))
      expect(ranks.map(({ worldSize }) => worldSize)).toEqual(Array(size).fill(size))
      const values = Array.from({ length: size }, (_, i) => i)
      expect(await Promise.all(ranks.map((rank) => rank.allGather('k', rank.rank)))).toEqual(Array(size).fill(values))
      const blobs = ranks.map((rank) =>
        rank.allGatherBlobs('m', { digest: `d${rank.rank}`, payload: Uint8Array.of(rank.rank) }),
      )
      for (const blob of await Promise.all(blobs)) expect(blob.map(({ digest }) => digest)).toEqual(values.map((i) => `d${i}`))
      const epochs = await Promise.all(ranks.map((rank) => rank.beginEpoch()))
      ranks.forEach((rank, i) => rank.endEpoch(epochs[i]!))
    }
  })

  it('wait until nobody waits for anybody', async () => {
    const coordinator = await coordinate(2, { elastic: true })
    const options = { worldSize: 2, address: coordinator.address, standalone: true, ...QUICK }
    const ranks = await Promise.all([0, 1].map((rank) => member({ ...options, rank })))
    const epochs = await Promise.all(ranks.map((rank) => rank.beginEpoch()))
    const waiting = ranks[0]!.allGather('k', 0)
    let joined = false
    const joining = member({ ...options, rank: 2, worldSize: 3 }).then((rank) => ((joined = true), rank))
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(joined).toBe(false)
    expect(await Promise.all([waiting, ranks[1]!.allGather('k', 1)])).toEqual(Array(2).fill([0, 1]))
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(joined).toBe(false)
    ranks.forEach((rank, i) => rank.endEpoch(epochs[i]!))
    const all = [...ranks, await joining]
    expect(await Promise.all(all.map((rank) => rank.allGather('k', rank.rank)))).toEqual(Array(3).fill([0, 1, 2]))
    // One of the first ranks comes back, and still expects two.
    await ranks[1]!.close()
    all[1] = await member({ ...options, rank: 1 })
    expect(await Promise.all(all.map((rank) => rank.allGather('k', rank.rank)))).toEqual(Array(3).fill([0, 1, 2]))
  })

  it('are rejected where nobody said that the world may grow', async () => {
    const coordinator = await coordinate(2)
    const options = { worldSize: 3, address: coordinator.address, standalone: true, ...QUICK }
    expect(await failure(joinRendezvous({ ...options, rank: 2 }))).toMatchObject({ code: 'RENDEZVOUS_REJECTED' })
  })
})

describe('a coordinator that is restarted', () => {
  it.each([
    ['at once', 0],
    ['later than the heartbeat window', 900],
  ])('%s is joined again by its ranks, at their next call', async (_, pauseMs) => {
    const port = await freePort()
    let coordinator = await startCoordinator({ address: `tcp://127.0.0.1:${port}`, worldSize: 2, ...QUICK })
    const options = { worldSize: 2, address: coordinator.address, standalone: true, rejoin: true, timeoutMs: 8000, ...QUICK }
    const ranks = await Promise.all([0, 1].map((rank) => member({ ...options, rank })))
    const blobs = (text: string) =>
      Promise.all(ranks.map((rank) => rank.allGatherBlobs('m', { digest: `${text}${rank.rank}`, payload: Buffer.from(text) })))
    await blobs('a')
    const epochs = await Promise.all(ranks.map((rank) => rank.beginEpoch()))
    const waiting = ranks.map((rank, i) => failure(rank.barrier(`k${i}`, { epoch: epochs[i]!.id })))
    await coordinator.close()
    for (const error of await Promise.all(waiting)) expect(error).toMatchObject({ code: 'RANK_LOST' })
    expect(epochs.every(({ signal }) => signal.aborted)).toBe(true)

    setTimeout(() => {
      void startCoordinator({ address: `tcp://127.0.0.1:${port}`, worldSize: 2, ...QUICK }).then((started) => {
        coordinator = started
      })
    }, pauseMs)
    onTestFinished(() => coordinator.close())
    expect((await blobs('a')).map((all) => all.map(({ digest }) => digest))).toEqual(Array(2).fill(['a0', 'a1']))
    const again = await Promise.all(ranks.map((rank) => rank.beginEpoch()))
    // The same number as before, but not the same epoch.
    expect(again[0]!.id).toBe(epochs[0]!.id)
    ranks[0]!.abortEpoch(epochs[0]!, new (await import('@ckpt/contract')).CkptError('ABORTED', 'late'))
    await Promise.all(ranks.map((rank, i) => rank.barrier('k', { epoch: again[i]!.id })))
    expect(again.every(({ signal }) => !signal.aborted)).toBe(true)
  })

  it('by a new process as rank 0 goes on with the others, who never noticed it die', async () => {
    const cluster = await Cluster.start(2)
    onTestFinished(() => cluster.kill())
    await cluster.join({ token: QUICK.token })
    const other = await member({ ...cluster.options(1, { token: QUICK.token }), rejoin: true, rank: 1 }).catch(() => undefined)
    expect(other).toBeUndefined() // rank 1 lives
    await cluster.ranks[1]!.call('close')
    const rank1 = await member({ ...cluster.options(1, { token: QUICK.token, heartbeatTimeoutMs: 20_000 }), rejoin: true })
    await cluster.ranks[0]!.kill()
    const rank0 = await member(cluster.options(0, { token: QUICK.token }))
    expect(await Promise.all([rank0, rank1].map((rank) => rank.allGather('k', rank.rank, { timeoutMs: 10_000 })))).toEqual(
      Array(2).fill([0, 1]),
    )
  })

  it('is joined again by a call that began before its death was noticed, not by one that it may have answered', async () => {
    const cluster = await Cluster.start(2)
    onTestFinished(() => cluster.kill())
    const options = (rank: number) => cluster.options(rank, { token: QUICK.token })
    const [, rank1] = await Promise.all([cluster.ranks[0]!.call('join', options(0)), member({ ...options(1), rejoin: true })])
    const early = failure(rank1.barrier('early'))
    await new Promise((resolve) => setTimeout(resolve, 500))
    await cluster.ranks[0]!.kill()
    await new Promise((resolve) => setTimeout(resolve, 800))
    const late = rank1.allGather('k', 1, { timeoutMs: 20_000 })
    late.catch(() => undefined)
    expect(await early).toMatchObject({ code: 'RANK_LOST' })
    const rank0 = await member(options(0))
    expect(await Promise.all([rank0.allGather('k', 0), late])).toEqual(Array(2).fill([0, 1]))
  })
})

async function coordinate(worldSize: number, more: { elastic?: boolean } = {}): Promise<CoordinatorHandle> {
  const coordinator = await startCoordinator({ address: 'tcp://127.0.0.1:0', worldSize, ...QUICK, ...more })
  onTestFinished(() => coordinator.close())
  return coordinator
}

async function member(options: JoinOptions): Promise<Rendezvous> {
  const rendezvous = await joinRendezvous({ timeoutMs: 8000, ...options })
  onTestFinished(() => rendezvous.close())
  return rendezvous
}
