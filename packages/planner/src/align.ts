/** Every tensor's offset in its bucket is a multiple of this, so that any element type can be read in place. */
export const TENSOR_ALIGNMENT = 16

/** Buckets, and tensors that do not follow their predecessor in memory, start at multiples of this. */
export const BLOCK_ALIGNMENT = 256

/** Bytes between two tensors of a segment that are still copied along instead of splitting the copy. */
export const MAX_GAP = 256

/** The least multiple of `alignment`, a power of two, that is not below `value`, a whole number of at most 2^53 - 1. */
export function alignUp(value: number, alignment: number): number {
  // Bit operators see the lowest 32 bits of any whole number, and are far cheaper than a division of doubles.
  return value + (-value & (alignment - 1))
}

/** The largest multiple of `alignment`, a power of two, that is not above `value`, a whole number of at most 2^53 - 1. */
export function alignDown(value: number, alignment: number): number {
  return value - (value & (alignment - 1))
}
