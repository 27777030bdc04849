import { CkptError, DTYPE_BITS, DTYPES, tensorAt, tensorTable, type RankMetas, type TensorMeta } from '@ckpt/contract'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'

import { decodeRankMetas } from './decode.ts'
import { encodeRankMetas } from './encode.ts'
import { metasDigest } from './format.ts'
import { expertMetas } from './kimi.fixture.ts'

function rows(metas: Omit<RankMetas, 'digest'>): TensorMeta[] {
  return Array.from({ length: metas.tensors.count }, (_, i) => tensorAt(metas.tensors, i))
}

function fieldOf(action: () => unknown): unknown {
  try {
    action()
  } catch (error) {
    if (CkptError.is(error, 'METAS_MALFORMED')) return error.fields.field
    throw error
  }
  return 'nothing was thrown'
}

const decodeAny = (payload: Uint8Array) => decodeRankMetas(payload, metasDigest(payload))

const arbitraryTensor = fc.record({
  name: fc.oneof(
    fc.string({ unit: 'binary', maxLength: 40 }),
    fc.constantFrom('layers.é.weight', 'layers.é.bias', '🙂🙃', '🙂🙂'),
    fc.nat(500).map((i) => `model.layers.${i}.mlp.weight`),
  ),
  dtype: fc.constantFrom(...DTYPES),
  shape: fc.array(fc.nat(9), { maxLength: 4 }).map((shape) => (shape.length === 0 ? [] : [...shape.slice(1), shape[0]! * 8])),
  segment: fc.nat(3),
  gap: fc.oneof(fc.constant(0), fc.constant(0), fc.nat(70), fc.constant(2 ** 40)),
})

const arbitraryMetas = fc
  .record({
    tensors: fc.array(arbitraryTensor, { maxLength: 200 }),
    host: fc.string({ maxLength: 20 }),
    rank: fc.nat(),
    digests: fc.boolean(),
    backwards: fc.boolean(),
  })
  .map(({ tensors, host, rank, digests, backwards }): Omit<RankMetas, 'digest'> => {
    const ends = [0, 0, 0, 0]
    const metas: TensorMeta[] = []
    for (const { gap, segment, name, dtype, shape } of tensors) {
      // A sub-byte scalar does not have a whole number of bytes.
      const whole = shape.length === 0 && DTYPE_BITS[dtype] < 8 ? [8] : shape
      const bytes = (whole.reduce((product, dimension) => product * dimension, 1) * DTYPE_BITS[dtype]) / 8
      metas.push({ name, dtype, shape: whole, segment, bytes, offset: ends[segment]! + gap })
      ends[segment] = ends[segment]! + gap + bytes
    }
    if (backwards) metas.reverse()
    return {
      rank,
      host,
      deviceUuid: 'GPU-1',
      segments: ends.map((bytes, i) => ({ bytes, kind: (['anonymous', 'shared', 'file'] as const)[i % 3]! })),
      tensors: tensorTable(metas, digests ? BigUint64Array.from(metas, (_, i) => 2n ** 63n + BigInt(i)) : undefined),
    }
  })

describe('metas codec', () => {
  it('gives back any valid metas', () => {
    fc.assert(
      fc.property(arbitraryMetas, fc.nat(7), (metas, shift) => {
        const { payload, digest } = encodeRankMetas(metas)
        // As received from a socket: at any alignment.
        const moved = new Uint8Array(payload.length + shift).subarray(shift)
        moved.set(payload)
        const decoded = decodeRankMetas(moved, digest)
        expect(rows(decoded)).toEqual(rows(metas))
        expect(decoded.tensors.digests).toEqual(metas.tensors.digests)
        expect({ ...decoded, tensors: 0 }).toEqual({ ...metas, tensors: 0, digest })
      }),
      { numRuns: 300 },
    )
  })

  it('never answers changed bytes with anything but an error of its own or valid metas', () => {
    const mutation = fc.oneof(
      fc.record({ at: fc.nat(), value: fc.nat(255) }).map(({ at, value }) => (bytes: Uint8Array) => {
        if (bytes.length > 0) bytes[at % bytes.length] = value
        return bytes
      }),
      fc.nat().map((at) => (bytes: Uint8Array) => bytes.subarray(0, at % (bytes.length + 1))),
      fc.uint8Array({ maxLength: 9 }).map((more) => (bytes: Uint8Array) => Buffer.concat([bytes, more])),
    )
    let rejected = 0
    fc.assert(
      fc.property(arbitraryMetas, fc.array(mutation, { minLength: 1, maxLength: 4 }), (metas, mutations) => {
        const payload = mutations.reduce<Uint8Array>(
          (bytes, mutate) => mutate(bytes),
          Uint8Array.from(encodeRankMetas(metas).payload),
        )
        try {
          const decoded = decodeAny(payload)
          for (const row of rows(decoded)) {
            expect(row.offset + row.bytes).toBeLessThanOrEqual(decoded.segments[row.segment]!.bytes)
            expect(/\p{Surrogate}/u.test(row.name)).toBe(false)
          }
        } catch (error) {
          if (!CkptError.is(error, 'METAS_MALFORMED')) throw error
          expect(error.fields.field).toBeTypeOf('string')
          rejected++
        }
      }),
      { numRuns: 2000 },
    )
    expect(rejected).toBeGreaterThan(500)
  })

  it('rejects every truncation', () => {
    const { payload } = encodeRankMetas(expertMetas(100))
    for (let length = 0; length < payload.length; length++) {
      expect(fieldOf(() => decodeAny(payload.subarray(0, length)))).toBeTypeOf('string')
    }
  })

  it('names the field that is wrong', () => {
    const { payload, digest } = encodeRankMetas(expertMetas(3))
    const changed = (at: number, value: number) => {
      const copy = Uint8Array.from(payload)
      copy[at] = value
      return copy
    }
    expect(fieldOf(() => decodeRankMetas(changed(20, 1), digest))).toBe('digest')
    expect(fieldOf(() => decodeAny(changed(0, 0)))).toBe('magic')
    expect(fieldOf(() => decodeAny(changed(4, 9)))).toBe('version')
    expect(fieldOf(() => decodeAny(changed(6, 4)))).toBe('flags')
    expect(fieldOf(() => decodeAny(changed(10, 0xff)))).toBe('host')
    expect(fieldOf(() => decodeAny(changed(9, 0xff)))).toBe('host')
    expect(fieldOf(() => decodeAny(Buffer.concat([payload, Buffer.of(0)])))).toBe('end')
    const name = Buffer.from(payload).indexOf('model.layers')
    expect(fieldOf(() => decodeAny(changed(name, 0xff)))).toBe('names.text')
    expect(fieldOf(() => decodeAny(changed(name - 1, 0xff)))).toBe('names.length')
  })

  it('refuses metas that contradict themselves, by tensor', () => {
    const tensor: TensorMeta = { name: 'a', dtype: 'F32', shape: [4], bytes: 16, segment: 0, offset: 0 }
    const encode = (changes: Partial<TensorMeta>) =>
      encodeRankMetas({
        rank: 0,
        host: 'h',
        deviceUuid: 'd',
        segments: [{ bytes: 16, kind: 'file' }],
        tensors: tensorTable([{ ...tensor, ...changes }]),
      })
    expect(decodeAny(encode({}).payload).tensors.count).toBe(1)
    for (const bad of [
      { offset: 1 },
      { bytes: 15 },
      { segment: 1 },
      { name: 'x'.repeat(5000) },
      { name: '\ud800' },
      { shape: [-4] },
    ]) {
      expect(() => encode(bad)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    }
  })

  it('has no tensor outside its list', () => {
    const { names } = decodeAny(encodeRankMetas(expertMetas(66)).payload).tensors
    expect(names.at(64)).toContain('model.layers.0')
    for (const index of [-1, 66, 0.5, NaN]) expect(() => names.at(index)).toThrow(RangeError)
  })

  it('handles 139,000 tensors in little time and room', () => {
    const metas = expertMetas(139_000)
    // Processor time, independent of other processes.
    const cpuMs = () => process.cpuUsage().user / 1000
    const figures = { bytes: 0, encodeMs: Infinity, decodeMs: Infinity }
    for (let i = 0; i < 5; i++) {
      const started = cpuMs()
      const { payload, digest } = encodeRankMetas(metas)
      const encoded = cpuMs()
      const decoded = decodeRankMetas(payload, digest)
      const ended = cpuMs()
      expect(decoded.tensors.names.at(138_999)).toBe(metas.tensors.names.at(138_999))
      figures.bytes = payload.length
      figures.encodeMs = Math.min(figures.encodeMs, encoded - started)
      figures.decodeMs = Math.min(figures.decodeMs, ended - encoded)
    }
    console.log(JSON.stringify(figures))
    // Far above the values of an idle machine (see the printed figures): this only excludes superlinear growth.
    expect(figures.encodeMs).toBeLessThan(800)
    expect(figures.decodeMs).toBeLessThan(300)
    expect(figures.bytes).toBeLessThan(139_000 * 8)
  })
})
