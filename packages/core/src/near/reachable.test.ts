import { CkptError } from '@ckpt/contract'
import { describe, expect, it } from 'vitest'
import { unreachable, unreachableForAny, type Reading } from './reachable.ts'

const point = (kind: string) => ({ endpoint: { kind } })
/** Four ranks: all hold something but the last, and serve over TCP but rank 2. */
const reading = (more: Partial<Reading> = {}): Reading => ({
  rank: 0,
  manifest: { ranks: [3, 1, 2, 0].map((count, rank) => ({ rank, tensors: { count } })) } as never,
  joining: false,
  members: [0, 1],
  reach: {
    access: [0, 1, 2, 3].map((rank) => ({ rank, points: rank === 2 ? [] : [point('tcp')] })),
    endpoints: [{ kind: 'tcp' }],
  } as never,
  ...more,
})
const silent = { access: reading().reach.access, endpoints: [] } as never

describe('a rank whose collective does not reach all holders', () => {
  it('needs an endpoint of each holder outside of it, of a kind that it has', () => {
    expect(unreachable(reading({ members: [0, 1, 2] }))).toBeUndefined()
    const error = unreachable(reading())
    expect(error).toMatchObject({ code: 'UNSUPPORTED', fields: { ranks: [2], field: 'host' } })
    expect(error!.message).toMatch(/rank 0 shares no \/dev\/shm with rank 2, .*--ipc.*serve/)
    expect(unreachable(reading({ members: [0], reach: silent }))?.fields['ranks']).toEqual([1, 2])
  })

  it('needs one of all holders if these are ranks of another run', () => {
    expect(unreachable(reading({ joining: true, members: [0, 1, 2] }))?.fields['ranks']).toEqual([2])
    expect(unreachable(reading({ joining: true, reach: silent }))?.fields['ranks']).toEqual([0, 1, 2])
  })

  it('tells the others, so that all fail alike before an engine is called', async () => {
    const own = unreachable(reading())
    for (const said of [own, undefined]) {
      const error = await unreachableForAny(said, async (key, value) => {
        expect(key).toBe('near/unreachable')
        return [null, value ?? { text: own!.message, ranks: [2] }, null]
      })
      expect(CkptError.is(error, 'UNSUPPORTED')).toBe(true)
      expect(error).toMatchObject({ message: own!.message, fields: { ranks: [2], field: 'host' } })
    }
    expect(await unreachableForAny(undefined, async (_, value) => [null, value])).toBeUndefined()
  })
})
