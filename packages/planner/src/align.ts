/** Every tensor's offset in its bucket is a multiple of this, so that any element type can be read in place. */
export const TENSOR_ALIGNMENT = 16

/** Buckets, and tensors that do not follow their predecessor in memory, start at multiples of this. */
export const BLOCK_ALIGNMENT = 256

/** Bytes between two tensors of a segment that are still copied along instead of splitting the copy. */
export const MAX_GAP = 256
