import { CkptError, checkMessagePack } from '@ckpt/contract'
import fc from 'fast-check'
import { Packr, Unpackr } from 'msgpackr'
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

  it('that claim more than they hold are refused before room is made for it', () => {
    // Nested arrays of 16 million elements, each the first element of the previous one: this input, found by the fuzzer, used
    // gigabytes.
    const frame = Buffer.from(`81a474797065${'dd01000000'.repeat(12)}00`, 'hex')
    const started = performance.now()
    for (const decode of [decodeRankMessage, decodeWorkerMessage]) {
      expect(() => decode(frame, 'peer')).toThrow(expect.objectContaining({ code: 'ENGINE_PROTOCOL' }) as Error)
    }
    expect(performance.now() - started).toBeLessThan(200)
  })
})

describe('the check of a MessagePack value', () => {
  const packr = new Packr({ useRecords: false, variableMapSize: true })
  const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true })

  it('takes whatever a packer makes, and no part of it, and nothing more', () => {
    fc.assert(
      fc.property(
        fc.anything({ withBigInt: false, withDate: true, withTypedArray: true, withSet: false }),
        fc.nat(),
        (value, cut) => {
          const bytes = Buffer.from(packr.pack(value))
          checkMessagePack(bytes)
          expect(() => checkMessagePack(Buffer.concat([bytes, Buffer.from([0xc0])]))).toThrow(/ends at byte/)
          expect(() => checkMessagePack(bytes.subarray(0, cut % bytes.length))).toThrow()
        },
      ),
    )
    for (const long of [
      'x'.repeat(40),
      'x'.repeat(300),
      'x'.repeat(70_000),
      Array(20).fill(1),
      Array(70_000).fill(2),
      Buffer.alloc(300),
    ]) {
      checkMessagePack(packr.pack(long))
    }
  })

  it('takes nothing that a decoder would not', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        const taken = attempt(() => checkMessagePack(bytes))
        // The decoder refuses reserved values, unknown extensions, and maps and arrays as keys.
        if (bytes.some((byte) => byte === 0xc1 || (byte >= 0xc7 && byte <= 0xc9) || (byte >= 0xd4 && byte <= 0xd8))) return
        expect(attempt(() => void unpackr.unpack(bytes), taken ? /^Invalid property type for record/ : undefined)).toBe(taken)
      }),
      { numRuns: 5000 },
    )
  })
})

/** Returns true if `work` succeeds, or fails with a message that `allowed` matches. */
function attempt(work: () => void, allowed?: RegExp): boolean {
  try {
    work()
    return true
  } catch (error) {
    return allowed?.test((error as Error).message) ?? false
  }
}
