import { connect } from 'node:net'
import { once } from 'node:events'

import type { CkptError } from '@ckpt/contract'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { Dealer } from 'zeromq'

import { fetchPublished, joinRendezvous, startCoordinator, type CoordinatorHandle } from '../index.ts'
import { curveClient, type CurveClient } from '../wire/curve.ts'
import { pack, unpack, PROTOCOL, type JoinMessage } from '../wire/messages.ts'

const join: JoinMessage = {
  type: 'join',
  protocol: PROTOCOL,
  rank: 1,
  worldSize: 2,
  incarnation: 'i',
  token: 'secret',
  host: 'h',
  pid: 1,
}
const gather = { type: 'gather', id: 1, kind: 'barrier', key: 'k', ranks: null, epoch: null, timeoutMs: 1e6, digest: null }

/** These peers know the run's secret; for those that do not, see strangers.test.ts. */
describe('a coordinator among hostile peers', () => {
  let coordinator: CoordinatorHandle
  let faults: CkptError[]
  let curve: CurveClient

  beforeEach(async () => {
    faults = []
    curve = (await curveClient('secret'))!
    coordinator = await startCoordinator({
      address: 'tcp://127.0.0.1:0',
      worldSize: 2,
      token: 'secret',
      heartbeatMs: 50,
      onFault: (error) => faults.push(error),
    })
  })
  afterEach(() => coordinator.close())

  const member = (rank: number) =>
    joinRendezvous({ rank, worldSize: 2, address: coordinator.address, standalone: true, token: 'secret', timeoutMs: 5000 })

  function peer(): {
    socket: Dealer
    answer: (...frames: Uint8Array[]) => Promise<{ type: string; error?: { code: string; message: string } }>
  } {
    const socket = new Dealer({ linger: 0, receiveTimeout: 5000, ...curve })
    socket.connect(coordinator.address)
    return {
      socket,
      async answer(...frames) {
        await socket.send(frames)
        for (;;) {
          const [head] = await socket.receive()
          const message = unpack(head!) as { type: string }
          if (message.type !== 'beat') return message
        }
      },
    }
  }

  it('answers frames that are not messages with an error that names the peer, and goes on', async () => {
    const deep = Buffer.concat([Buffer.alloc(200_000, 0x91), Buffer.of(0xc0)])
    const frames = [
      Buffer.alloc(0),
      Buffer.from('GET / HTTP/1.1\r\n\r\n'),
      Buffer.from('ddffffffff', 'hex'),
      Buffer.from('dfffffffff', 'hex'),
      Buffer.from('c6ffffffff00', 'hex'),
      deep,
      pack(null),
      pack([]),
      pack({ type: 'nonsense' }),
      pack({ ...join, rank: -1 }),
      pack({ ...join, rank: 2 ** 60 }),
      pack({ ...join, worldSize: '2' }),
      pack({ ...join, incarnation: 'x'.repeat(1000) }),
      pack({ type: 'payload', id: 1 }),
    ]
    const { socket, answer } = peer()
    for (const frame of frames) {
      expect(await answer(frame)).toMatchObject({
        type: 'dismissed',
        error: { code: 'RENDEZVOUS_PROTOCOL', fields: { peer: /^peer / } },
      })
    }
    expect(faults).toHaveLength(frames.length)
    // Members of an earlier coordinator also send what only members may send.
    for (const message of [
      gather,
      { type: 'beat', ended: [] },
      { type: 'want', id: 1, digests: ['x'] },
      { type: 'abort', epoch: 1, error: { code: 'X', message: '', fields: {} } },
    ]) {
      expect(await answer(pack(message))).toMatchObject({ type: 'dismissed', error: { code: 'RANK_LOST' } })
    }
    expect(faults).toHaveLength(frames.length)
    socket.close()
    await expectWorking()
  })

  it('rejects who may not join, without a word on what the token is', async () => {
    const { socket, answer } = peer()
    for (const [changes, why] of [
      [{ token: '' }, /rank 1 may not join: its token/],
      [{ token: 'secre' }, /token/],
      [{ protocol: 99 }, /protocol 99/],
      [{ worldSize: 3 }, /expects 3 ranks, but there are 2/],
      [{ rank: 2 }, /ranks go up to 1/],
    ] as const) {
      const { error } = await answer(pack({ ...join, ...changes }))
      expect(error?.code).toBe('RENDEZVOUS_REJECTED')
      expect(error?.message).toMatch(why)
      expect(error?.message).not.toContain('secret')
    }
    socket.close()
    await expectWorking()
  })

  it('dismisses a member that breaks the protocol, and tells those who wait for it', async () => {
    for (const bad of [
      [pack({ ...gather, ranks: [0] })],
      [pack({ ...gather, ranks: [1, 1] })],
      [pack({ ...gather, ranks: [1, 7] })],
      [pack({ ...gather, kind: 'value' })],
      [pack({ ...gather, digest: 'd' })],
      [pack({ ...gather, kind: 'blob' })],
      [pack(gather), pack(gather)],
      [pack({ ...join, rank: 0 })],
    ]) {
      const other = await member(0)
      const waiting = other.barrier('k', { ranks: [0, 1] })
      const rejection = expect(waiting).rejects.toMatchObject({ code: 'RENDEZVOUS_PROTOCOL', fields: { peer: 'rank 1' } })
      const { socket, answer } = peer()
      expect(await answer(pack(join))).toMatchObject({ type: 'welcome' })
      const message = await answer(...bad)
      if (message.error?.code === 'RENDEZVOUS_REJECTED') {
        // Claiming a second rank is refused without further effect; leaving without notice is not.
        await socket.send(Buffer.from('bad'))
      } else expect(message).toMatchObject({ type: 'dismissed', error: { code: 'RENDEZVOUS_PROTOCOL' } })
      await rejection
      socket.close()
      await other.close()
    }
  })

  it('bounds what a member may keep waiting here, and goes on for the others', async () => {
    const mebibyte = 2 ** 20
    const { socket, answer } = peer()
    expect(await answer(pack(join))).toMatchObject({ type: 'welcome' })
    socket.receiveTimeout = 30_000
    const failed: { id: number; error: { code: string; fields: Record<string, unknown> } }[] = []
    const ask = async (count: number, from: number, payload: Uint8Array) => {
      for (let id = from; id < from + count; id++) {
        await socket.send([pack({ ...gather, id, kind: 'value', key: `k${id}`, ranks: [0, 1] }), payload])
      }
      // Earlier messages are handled first; this one fails immediately.
      const end = { ...gather, id: 1e6, kind: 'value', key: 'end', ranks: [0, 1], epoch: 77 }
      await socket.send([pack(end), Buffer.alloc(1)])
      for (;;) {
        const [head] = await socket.receive()
        const message = unpack(head!) as { type: string } & (typeof failed)[number]
        if (message.type !== 'failed') continue
        if (message.id === 1e6) return
        failed.push(message)
      }
    }
    // 300 MiB in ten gathers, of which 256 MiB may wait; then many small ones, up to 256 gathers.
    const large = Buffer.alloc(30 * mebibyte)
    await ask(10, 1, large)
    expect(failed.map(({ id }) => id)).toEqual([9, 10])
    await ask(400, 100, Buffer.alloc(8))
    expect(failed.length).toBe(2 + 400 - (256 - 8))
    for (const { error } of failed) expect(error).toMatchObject({ code: 'INVALID_STATE', fields: { rank: 1 } })
    // Only the latest 256 MiB of what it publishes are kept.
    for (let i = 0; i < 10; i++) await socket.send([pack({ type: 'publish', key: `p${i}` }), large])
    const fetched = (key: string) =>
      fetchPublished(key, { address: coordinator.address, token: 'secret', timeoutMs: 30_000 }).then(
        (found) => found?.byteLength,
      )
    await expect.poll(() => fetched('p9'), { timeout: 30_000 }).toBe(large.byteLength)
    expect(await Promise.all(['p0', 'p1', 'p2'].map(fetched))).toEqual([undefined, undefined, large.byteLength])
    const other = await member(0)
    expect(await other.allGather('mine', 7, { ranks: [0] })).toEqual([7])
    await other.close()
    socket.close()
  }, 120_000)

  it('lets no member put something else under the digest of a different one, nor oust what that one brought', async () => {
    const other = await member(0)
    const own = { digest: 'digest of rank 0', payload: Buffer.from('what rank 0 brings') }
    const { socket, answer } = peer()
    expect(await answer(pack(join))).toMatchObject({ type: 'welcome' })
    const bring = async (id: number, key: string, digest: string, payload: Uint8Array, ranks = [1]) => {
      const need = await answer(pack({ ...gather, id, kind: 'blob', key, ranks, digest }))
      return need.type === 'need' ? answer(pack({ type: 'payload', id }), payload) : need
    }
    expect(await other.allGatherBlobs('metas', own, { ranks: [0] })).toEqual([own])
    expect(await bring(1, 'metas', own.digest, Buffer.from('something else'))).toMatchObject({
      type: 'failed',
      error: { code: 'RENDEZVOUS_PROTOCOL', fields: { rank: 1, field: 'digest' } },
    })
    // It brings 40 keys of its own: rank 0's are kept.
    for (let i = 0; i < 40; i++) {
      expect(await bring(10 + i, `key ${i}`, `d${i}`, Buffer.from(`${i}`))).toMatchObject({ type: 'gathered' })
    }
    const both = other.allGatherBlobs('metas', own, { ranks: [0, 1] })
    expect(await bring(99, 'metas', 'mine', Buffer.from('mine'), [0, 1])).toMatchObject({
      type: 'gathered',
      digests: [own.digest, 'mine'],
    })
    expect((await both).map(({ payload }) => Buffer.from(payload).toString())).toEqual(['what rank 0 brings', 'mine'])
    const [, payload] = await (async () => {
      await socket.send(pack({ type: 'want', id: 99, digests: [own.digest] }))
      for (;;) {
        const frames = await socket.receive()
        if ((unpack(frames[0]!) as { type: string }).type === 'payloads') return frames
      }
    })()
    expect(payload!.toString()).toBe('what rank 0 brings')
    socket.close()
    await other.close()
  })

  it('survives any bytes, and messages with any fields', async () => {
    const { socket } = peer()
    const messages = fc.record(
      {
        type: fc.constantFrom('join', 'beat', 'leave', 'gather', 'payload', 'want', 'cancel', 'abort'),
        id: fc.oneof(fc.nat(3), fc.anything()),
        kind: fc.constantFrom('value', 'blob', 'barrier', 'epoch', 'x'),
        key: fc.oneof(fc.constant('k'), fc.string()),
        ranks: fc.oneof(fc.constant(null), fc.array(fc.nat(3)), fc.anything()),
        epoch: fc.oneof(fc.constant(null), fc.nat(3), fc.anything()),
        timeoutMs: fc.oneof(fc.constant(10), fc.double()),
        digest: fc.oneof(fc.constant(null), fc.string()),
        ended: fc.array(fc.nat(3)),
        ...Object.fromEntries(Object.entries(join).map(([key, value]) => [key, fc.constant(value)])),
      },
      { requiredKeys: ['type'] },
    )
    const packed = messages.map((message) => {
      try {
        return pack({ ...message, protocol: PROTOCOL })
      } catch {
        return Buffer.of(0xc1)
      }
    })
    const frame = fc.oneof(fc.uint8Array({ maxLength: 60 }), packed)
    await fc.assert(
      fc.asyncProperty(fc.array(frame, { minLength: 1, maxLength: 3 }), async (frames) => {
        await socket.send(frames)
      }),
      { numRuns: 1500 },
    )
    socket.close()
    const raw = connect(Number(new URL(coordinator.address).port), '127.0.0.1')
    raw.on('error', () => undefined)
    await once(raw, 'connect')
    raw.write(Buffer.alloc(100_000, 0xff))
    raw.destroy()
    await expectWorking()
    expect(faults.length).toBeGreaterThan(100)
    for (const fault of faults) expect(fault.code).toBe('RENDEZVOUS_PROTOCOL')
  })

  async function expectWorking(): Promise<void> {
    const ranks = await Promise.all([member(0), member(1)])
    expect(await Promise.all(ranks.map((rank) => rank.allGather('k', rank.rank)))).toEqual([
      [0, 1],
      [0, 1],
    ])
    await Promise.all(ranks.map((rank) => rank.close()))
  }
})
