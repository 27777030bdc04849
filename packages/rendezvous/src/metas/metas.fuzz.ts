import { CkptError, tensorAt, tensorTable, type TensorMeta } from '@ckpt/contract'
import { decodeRankMetas } from './decode.ts'
import { encodeRankMetas } from './encode.ts'
import { metasDigest } from './format.ts'

const tensor = (name: string, segment: number, offset: number, bytes: number): TensorMeta => ({
  name,
  dtype: 'U8',
  shape: [bytes],
  segment,
  offset,
  bytes,
})

function metas(tensors: TensorMeta[], digests?: BigUint64Array): Uint8Array {
  const segments = [
    { kind: 'anonymous' as const, bytes: 4096 },
    { kind: 'file' as const, bytes: 1000 },
  ]
  return encodeRankMetas({ rank: 3, host: 'höst', deviceUuid: 'GPU-1', segments, tensors: tensorTable(tensors, digests) })
    .payload
}

/** Compact encoding in which ranks send their metas. A hostile rank computes the digest itself, so it always matches here. */
export const fuzz = {
  name: 'metas',
  seeds(): Uint8Array[] {
    const layers = Array.from({ length: 40 }, (_, i) =>
      tensor(`model.layers.${i}.mlp.weight`, i % 2, Math.floor(i / 2) * 48, 40),
    )
    return [
      metas([]),
      metas([tensor('a', 0, 0, 16), tensor('ab', 0, 256, 8), tensor('ab😀', 1, 0, 1000)]),
      metas(layers),
      metas(
        layers,
        BigUint64Array.from(layers, (_, i) => BigInt(i) << 60n),
      ),
    ]
  },
  run(input: Uint8Array): string {
    try {
      const { segments, tensors } = decodeRankMetas(input, metasDigest(input))
      for (let i = 0; i < tensors.count; i++) {
        const { name, segment, offset, bytes } = tensorAt(tensors, i)
        if (!(offset >= 0 && offset + bytes <= segments[segment]!.bytes)) throw new Error(`${name} leaves its segment`)
      }
      return `${tensors.count} tensors in ${segments.length}`
    } catch (error) {
      if (!CkptError.is(error, 'METAS_MALFORMED')) throw error
      if (typeof error.fields.field !== 'string') throw new Error('the error names no field', { cause: error })
      return error.message.replaceAll(/\d+/g, '#').slice(0, 100)
    }
  },
}
