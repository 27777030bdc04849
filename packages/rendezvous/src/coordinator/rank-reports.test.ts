import { CkptError, type Rendezvous } from '@ckpt/contract'
import getPort from 'get-port'
import { afterEach, describe, expect, it } from 'vitest'

import { joinRendezvous } from '../index.ts'
import { pack } from '../wire/messages.ts'
import { decodeReports, MAX_REPORT_BYTES } from './rank-reports.ts'

const text = (payload: Uint8Array | undefined) => payload && Buffer.from(payload).toString()

describe('reports of ranks', () => {
  const joined: Rendezvous[] = []
  afterEach(async () => {
    for (const one of joined.splice(0).reverse()) await one.close()
  })
  const join = async (worldSize: number) => {
    const address = `tcp://127.0.0.1:${await getPort()}`
    const options = { worldSize, address, token: 'a secret of this test', timeoutMs: 20_000 }
    const ranks = await Promise.all(
      Array.from({ length: worldSize }, (_, rank) => joinRendezvous({ ...options, rank, rejoin: rank > 0 })),
    )
    joined.push(...ranks)
    return ranks
  }

  it('are the latest of each rank, known to all of them, and stay after it has left', async () => {
    const [first, second, third] = await join(3)
    first!.report!(Buffer.from('old'))
    first!.report!(Buffer.from('new'))
    second!.report!(Buffer.from('two'))
    for (const rank of [first!, second!]) {
      // Without acknowledgement, and so a moment later.
      await expect
        .poll(async () => (await rank.reports!()).map(({ rank, lost, payload }) => [rank, lost, text(payload)]))
        .toEqual([
          [0, undefined, 'new'],
          [1, undefined, 'two'],
          [2, undefined, undefined],
        ])
    }
    const both = await Promise.all([first!.reports!(), first!.reports!()])
    expect(both.map((reports) => reports.length)).toEqual([3, 3])
    await third!.close()
    await expect.poll(async () => (await first!.reports!())[2]!.lost).toBe('rank 2 has left')
  })

  it('work in a world of one rank, and are limited in size', async () => {
    const [only] = await join(1)
    only!.report!(new Uint8Array(MAX_REPORT_BYTES))
    expect((await only!.reports!()).map(({ payload }) => payload?.byteLength)).toEqual([MAX_REPORT_BYTES])
    expect(() => only!.report!(new Uint8Array(MAX_REPORT_BYTES + 1))).toThrow(/16385 bytes, at most 16384/)
    await only!.close()
    await expect(only!.reports!()).rejects.toMatchObject({ code: 'INVALID_STATE' })
  })

  it('are none from a coordinator that keeps none, and an error if they are malformed', () => {
    expect(decodeReports(undefined, 'rank 0')).toEqual([])
    for (const bytes of [Uint8Array.of(0xc1), pack({}), pack([{ rank: -1, host: 'h', pid: 1, silentMs: 0 }])]) {
      expect(() => decodeReports(bytes, 'rank 0')).toThrow(CkptError)
    }
  })
})
