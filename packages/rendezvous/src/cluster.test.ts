import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import { Cluster, failure, RankProcess } from './testing/cluster.ts'

describe('four ranks in four processes', () => {
  let cluster: Cluster

  beforeAll(async () => {
    cluster = await Cluster.start(4)
    await cluster.join()
  })
  afterAll(() => cluster.kill())

  it('gather values by rank, and use a key again and again', async () => {
    for (let round = 0; round < 20; round++) {
      const results = await cluster.all((rank, i) =>
        rank.call('allGather', 'key', { i, round, bytes: Uint8Array.of(i), none: null }),
      )
      for (const values of results) {
        expect(values).toMatchObject([0, 1, 2, 3].map((i) => ({ i, round, none: null })))
        expect([...(values[2] as { bytes: Uint8Array }).bytes]).toEqual([2])
      }
    }
  })

  it('keep the order of a key when a rank is ahead of the others', async () => {
    const ahead = [1, 2, 3].map((n) => cluster.ranks[3]!.call('allGather', 'ahead', n))
    const rest = await Promise.all(
      [0, 1, 2].map(async (i) => {
        const got: unknown[] = []
        for (const n of [1, 2, 3]) got.push(await cluster.ranks[i]!.call('allGather', 'ahead', n))
        return got
      }),
    )
    const expected = [1, 2, 3].map((n) => [n, n, n, n])
    expect([...rest, await Promise.all(ahead)]).toEqual([expected, expected, expected, expected])
  })

  it('gather in subsets, also in disjoint ones with the same key', async () => {
    const results = await cluster.all((rank, i) => rank.call('allGather', 'half', i, { ranks: i % 2 === 0 ? [0, 2] : [1, 3] }))
    expect(results).toEqual([
      [0, 2],
      [1, 3],
      [0, 2],
      [1, 3],
    ])
    expect(await failure(cluster.ranks[0]!.call('barrier', 'x', { ranks: [1, 2] }))).toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(await failure(cluster.ranks[0]!.call('barrier', 'x', { ranks: [2, 0] }))).toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  it('learn that they name different ranks, instead of waiting', async () => {
    const errors = await Promise.all([
      failure(cluster.ranks[0]!.call('barrier', 'who', { ranks: [0, 1] })),
      failure(cluster.ranks[1]!.call('barrier', 'who', { ranks: [0, 1, 2] })),
    ])
    for (const error of errors) {
      expect(error.code).toBe('INVALID_ARGUMENT')
      expect(error.message).toMatch(/\[0, 1\] and \[0, 1, 2\]|\[0, 1, 2\] and \[0, 1\]/)
    }
  })

  it('name the ranks that are missing, at their deadline, and can go on with the same key', async () => {
    const started = performance.now()
    const errors = await Promise.all(
      [0, 1].map((i) => failure(cluster.ranks[i]!.call('allGather', 'late', i, { timeoutMs: 300 }))),
    )
    // At their own deadline, not at the cluster's, which is much later.
    expect(performance.now() - started).toBeLessThan(15_000)
    for (const error of errors) {
      expect(error.code).toBe('RANK_MISSING')
      expect(error.message).toContain('300 ms')
      expect(error.fields.ranks).toEqual(expect.arrayContaining([2, 3]))
    }
    expect(await cluster.all((rank, i) => rank.call('allGather', 'late', i))).toEqual(Array(4).fill([0, 1, 2, 3]))
  })

  it('send payloads once, and only their digests while nothing changes', async () => {
    const bytes = 700_000
    const first = await cluster.all((rank, i) => rank.call('blobs', 'metas', `a${i}`, bytes))
    const unchanged = []
    for (let n = 0; n < 5; n++) {
      unchanged.push(await cluster.all((rank, i) => rank.call('blobs', 'metas', `a${i}`, bytes)))
    }
    const changed = await cluster.all((rank, i) => rank.call('blobs', 'metas', i === 2 ? 'b' : `a${i}`, bytes))
    for (const results of [first, ...unchanged, changed]) {
      for (const { digests, hashes } of results) {
        expect(digests).toHaveLength(4)
        expect(hashes).toEqual(digests)
        expect(digests).toEqual(results[0]!.digests)
      }
    }
    expect(changed[0]!.digests.map((digest, i) => digest === first[0]!.digests[i])).toEqual([true, true, false, true])
    const slowest = (results: { ms: number }[]) => Math.max(...results.map(({ ms }) => ms))
    console.log(JSON.stringify({ firstMs: slowest(first), unchangedMs: unchanged.map(slowest), changedMs: slowest(changed) }))
  })

  it('abort an epoch everywhere with the first error', async () => {
    const ids = await cluster.all((rank) => rank.call('beginEpoch'))
    const id = ids[0]!
    expect(ids).toEqual([id, id, id, id])
    const waiting = failure(cluster.ranks[0]!.call('barrier', 'never', { epoch: id }))
    await Promise.all([1, 2].map((i) => cluster.ranks[i]!.call('abortEpoch', id, `rank ${i} saw it`)))
    const reasons = await cluster.all((rank) => rank.call('aborted', id))
    const origin = reasons[0]!.fields.rank as number
    expect([1, 2]).toContain(origin)
    for (const reason of [...reasons, (await waiting).toJSON()]) {
      expect(reason).toMatchObject({
        code: 'ABORTED',
        fields: { rank: origin, epoch: id },
        cause: { code: 'DIGEST_MISMATCH', message: `rank ${origin} saw it` },
      })
    }
    expect(await failure(cluster.ranks[3]!.call('barrier', 'never', { epoch: id }))).toMatchObject({ code: 'ABORTED' })

    const next = await cluster.all((rank) => rank.call('beginEpoch'))
    expect(next[0]).toBeGreaterThan(id)
    await cluster.all((rank) => rank.call('barrier', 'never', { epoch: next[0]! }))
    await cluster.all((rank) => rank.call('endEpoch', next[0]!))
    await cluster.ranks[1]!.call('abortEpoch', next[0]!, 'too late')
    expect(await cluster.all((rank) => rank.call('isAborted', next[0]!))).toEqual([false, false, false, false])
    expect(await failure(cluster.ranks[0]!.call('barrier', 'x', { epoch: next[0]! }))).toMatchObject({ code: 'INVALID_STATE' })
  })

  it('run an epoch of some ranks, which others cannot enter', async () => {
    const [id] = await Promise.all([1, 2].map((i) => cluster.ranks[i]!.call('beginEpoch', { ranks: [1, 2] })))
    await Promise.all([1, 2].map((i) => cluster.ranks[i]!.call('barrier', 'in', { epoch: id!, ranks: [1, 2] })))
    expect(await failure(cluster.ranks[1]!.call('barrier', 'in', { epoch: id! }))).toMatchObject({
      code: 'INVALID_ARGUMENT',
      fields: { ranks: [0, 3] },
    })
    await Promise.all([1, 2].map((i) => cluster.ranks[i]!.call('endEpoch', id!)))
  })

  it('abort the epoch of a rank that dies, within the window, and go on when it joins again', async () => {
    const [id] = await cluster.all((rank) => rank.call('beginEpoch'))
    const waiting = failure(cluster.ranks[0]!.call('barrier', 'later', { timeoutMs: 30_000 }))
    const died = performance.now()
    await cluster.ranks[3]!.kill()
    const reasons = await Promise.all([0, 1, 2].map((i) => cluster.ranks[i]!.call('aborted', id!)))
    // After the window, not at the deadline of the waiting rank.
    expect(performance.now() - died).toBeLessThan(15_000)
    for (const reason of reasons)
      expect(reason).toMatchObject({ code: 'ABORTED', fields: { rank: 3, epoch: id }, cause: { code: 'RANK_LOST' } })
    expect(await waiting).toMatchObject({ code: 'RANK_LOST', fields: { rank: 3 } })
    expect(await failure(cluster.ranks[1]!.call('barrier', 'later'))).toMatchObject({ code: 'RANK_LOST', fields: { rank: 3 } })
    // The others continue without it, and with it after it is back.
    await Promise.all([0, 1, 2].map((i) => cluster.ranks[i]!.call('barrier', 'later', { ranks: [0, 1, 2] })))
    cluster.ranks[3] = new RankProcess()
    await cluster.ranks[3].call('join', cluster.options(3))
    await cluster.all((rank) => rank.call('barrier', 'later'))
    const after = await cluster.all((rank, i) => rank.call('blobs', 'metas', `a${i}`, 1000))
    expect(after[3]!.hashes).toEqual(after[0]!.digests)
  })

  it('tell a rank that was stopped too long that it is lost; it may join again', async () => {
    const [id] = await cluster.all((rank) => rank.call('beginEpoch'))
    const stopped = cluster.ranks[2]!
    stopped.child.kill('SIGSTOP')
    expect(await cluster.ranks[0]!.call('aborted', id!)).toMatchObject({ fields: { rank: 2 } })
    stopped.child.kill('SIGCONT')
    expect(await stopped.call('aborted', id!)).toMatchObject({
      code: 'ABORTED',
      cause: { code: 'RANK_LOST', fields: { rank: 2 } },
    })
    expect(await failure(stopped.call('barrier', 'x'))).toMatchObject({ code: 'RANK_LOST', fields: { rank: 2 } })
    await stopped.call('close')
    await stopped.call('join', cluster.options(2))
    await cluster.all((rank) => rank.call('barrier', 'again'))
  })

  it('are not lost for being busy within the window', async () => {
    await Promise.all([0, 1].map((i) => cluster.ranks[i]!.call('block', 800)))
    await cluster.all((rank) => rank.call('barrier', 'busy'))
  })

  it('know who left in good order; every process then ends by itself', async () => {
    await cluster.ranks[1]!.call('close')
    expect(await failure(cluster.ranks[2]!.call('barrier', 'x', { ranks: [1, 2] }))).toMatchObject({
      code: 'RANK_LOST',
      message: 'rank 1 has left',
    })
    await cluster.all((rank) => rank.call('close'))
    expect(await failure(cluster.ranks[0]!.call('join', cluster.options(0, { worldSize: 0 })))).toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
    for (const resources of await cluster.all((rank) => rank.call('handles'))) expect(resources).not.toContain('Timeout')
    expect(await cluster.all((rank) => rank.exit())).toEqual([0, 0, 0, 0])
  })
})
