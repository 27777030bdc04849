import { CkptError } from '@ckpt/contract'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decodeRankMessage, decodeWorkerMessage, encodeMessage, ringTensor, tensorFrame, type RankMessage } from './messages.ts'

const bucket: RankMessage = {
  type: 'bucket',
  seq: 3,
  epoch: 2,
  bucket: 1,
  tensors: [
    tensorFrame({ name: 'a.weight', dtype: 'F8_E4M3', shape: [2, 3], offset: 2 ** 40, bytes: 6, digest: 2n ** 64n - 1n }),
    tensorFrame({ name: 'scalar', dtype: 'F32', shape: [], offset: 0, bytes: 4 }),
  ],
}

describe('messages', () => {
  it('come back as they were sent, large offsets and digests included', () => {
    const message = decodeRankMessage(encodeMessage(bucket), 'rank 0') as Extract<RankMessage, { type: 'bucket' }>
    expect(message).toMatchObject({ type: 'bucket', seq: 3, epoch: 2, bucket: 1 })
    expect(message.tensors.map(ringTensor)).toEqual([
      { name: 'a.weight', dtype: 'F8_E4M3', shape: [2, 3], offset: 2 ** 40, bytes: 6, digest: 2n ** 64n - 1n },
      { name: 'scalar', dtype: 'F32', shape: [], offset: 0, bytes: 4 },
    ])
    const attach: RankMessage = {
      type: 'attach',
      seq: 1,
      epoch: 2,
      token: 't',
      ring: { kind: 'cuda', handle: new Uint8Array(64).fill(7), offset: 0, bytes: 2 ** 33, deviceUuid: 'GPU-1' },
      tensors: 2,
      bytes: 10,
    }
    expect(decodeRankMessage(encodeMessage(attach), 'rank 0')).toMatchObject({ ring: { kind: 'cuda', bytes: 2 ** 33 } })
  })

  it.each([
    ['an unknown type', { type: 'shout', seq: 1, epoch: 1 }, 'type'],
    ['a negative offset', { ...bucket, tensors: [['a', 'F32', [1], -1, 4, null]] }, 'tensors.0.3'],
    ['an unknown dtype', { ...bucket, tensors: [['a', 'F7', [1], 0, 4, null]] }, 'tensors.0.1'],
    ['a short digest', { ...bucket, tensors: [['a', 'F32', [1], 0, 4, Buffer.alloc(7)]] }, 'tensors.0.5'],
    [
      'a path as a ring',
      {
        type: 'attach',
        seq: 1,
        epoch: 1,
        token: '',
        ring: { kind: 'shm', name: '../x', offset: 0, bytes: 1 },
        tensors: 0,
        bytes: 0,
      },
      'ring.name',
    ],
    ['no epoch', { type: 'release', seq: 1 }, 'epoch'],
  ])('with %s are refused by the field’s name', (_, message, field) => {
    const frame = encodeMessage(message as unknown as RankMessage)
    expect(() => decodeRankMessage(frame, 'rank 0')).toThrow(
      expect.objectContaining({ code: 'ENGINE_PROTOCOL', fields: { peer: 'rank 0', field } }) as Error,
    )
  })

  it('that are anything at all never do more than throw a CkptError', () => {
    const anything = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.tuple(fc.nat(400), fc.integer({ min: 0, max: 255 })).map(([at, value]) => {
        const frame = encodeMessage(bucket)
        frame[at % frame.length] = value
        return frame
      }),
    )
    fc.assert(
      fc.property(anything, (frame) => {
        for (const decode of [decodeRankMessage, decodeWorkerMessage]) {
          try {
            decode(frame, 'peer')
          } catch (error) {
            expect(CkptError.is(error, 'ENGINE_PROTOCOL')).toBe(true)
          }
        }
      }),
      { numRuns: 2000 },
    )
  })
})
