/** Alignment of every tensor in its bucket, so that any element type can be read in place. */
export const TENSOR_ALIGNMENT = 16

/** Alignment of buckets, and of tensors that do not follow their predecessor in memory. */
export const BLOCK_ALIGNMENT = 256

/** Maximum gap in bytes between two tensors of a segment that is copied along instead of splitting the copy. */
export const MAX_GAP = 256
