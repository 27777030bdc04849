import { CkptError } from './errors.ts'

/**
 * Bits per element of every dtype of the safetensors format, by the format's own names
 * (https://github.com/huggingface/safetensors, `Dtype`).
 */
export const DTYPE_BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const

/** An element type, by its safetensors name. */
export type DType = keyof typeof DTYPE_BITS

/**
 * All dtypes in a fixed order; a {@link TensorTable} stores a dtype as its index here. New ones are appended; the order never
 * changes.
 */
export const DTYPES: readonly DType[] = Object.keys(DTYPE_BITS) as DType[]

/** Returns true if `name`, of any type, is a dtype of the safetensors format. */
export function isDType(name: unknown): name is DType {
  return typeof name === 'string' && Object.hasOwn(DTYPE_BITS, name)
}

/**
 * Bytes of a tensor with this dtype and shape.
 *
 * @throws CkptError `INVALID_ARGUMENT` if the size is not a whole number of bytes (sub-byte dtypes) or is over 2^53 - 1.
 */
export function tensorBytes(dtype: DType, shape: readonly number[]): number {
  let elements = 1
  for (const dimension of shape) elements *= dimension
  const bits = elements * DTYPE_BITS[dtype]
  const bytes = bits / 8
  if (!Number.isSafeInteger(elements) || !Number.isSafeInteger(bytes)) {
    throw new CkptError('INVALID_ARGUMENT', `${dtype} of shape [${shape.join(', ')}] is not a whole, safe number of bytes`, {
      fields: { field: 'shape' },
    })
  }
  return bytes
}
