import type { ContiguousCopy, TensorMeta } from '@ckpt/contract'
import { alignUp } from '@ckpt/utils'
import type { TensorSpec } from './source.ts'
import type { FileShare } from './share.ts'

/** Alignment of runs, so that the tensors in them keep the alignment they have in their files. */
export const RUN_ALIGNMENT = 256
/** Alignment of tensors. */
export const TENSOR_ALIGNMENT = 16

/** Places of all tensors: sizes of the segments in bytes, the tensors in them, and the reads that fill them. */
export interface Layout {
  readonly segmentBytes: readonly number[]
  readonly tensors: readonly TensorMeta[]
  /** `memory` is the segment's index, `file` the share's. */
  readonly reads: readonly ContiguousCopy[]
  /** Bytes of all tensors. */
  readonly totalBytes: number
}

/** Assigns places in segments of at most `limit` bytes each; only a single larger item makes a segment larger. */
class Segments {
  readonly bytes: number[] = []
  readonly #limit: number

  constructor(limit: number) {
    this.#limit = limit
  }

  /** Index of the segment that is being filled. */
  get current(): number {
    return this.bytes.length - 1
  }

  /** Returns true if `end` bytes are still within the current segment's limit. */
  fits(end: number): boolean {
    return end <= this.#limit
  }

  /** Returns the offset of a new run of at least `bytes`, in the current segment or a new one. */
  start(bytes: number): number {
    const used = this.bytes.at(-1)
    const offset = used === undefined ? 0 : alignUp(used, RUN_ALIGNMENT)
    if (used !== undefined && (used === 0 || this.fits(offset + bytes))) return offset
    this.bytes.push(0)
    return 0
  }

  use(end: number): void {
    this.bytes[this.current] = Math.max(this.bytes[this.current]!, end)
  }

  /** Segment sizes, rounded up to whole runs; a segment is never empty. */
  sizes(): number[] {
    return this.bytes.map((bytes) => Math.max(RUN_ALIGNMENT, alignUp(bytes, RUN_ALIGNMENT)))
  }
}

/**
 * Lays out file shares so that each run of consecutive tensors in a file is read by one large read.
 *
 * Within a run, tensors keep their distance in the file. A run ends if that would misalign a tensor ({@link TENSOR_ALIGNMENT})
 * or exceed `segmentLimit` bytes; a tensor never straddles segments.
 */
export function layoutFiles(shares: readonly FileShare[], segmentLimit: number): Layout {
  const segments = new Segments(segmentLimit)
  const tensors: TensorMeta[] = []
  const reads: ContiguousCopy[] = []
  let totalBytes = 0
  shares.forEach(({ header, first, last }, file) => {
    // Segment offset minus file offset inside the current run, and the run's read.
    let shift = 0
    let read: (ContiguousCopy & { bytes: number }) | undefined
    for (let i = first; i < last; i++) {
      const { name, dtype, shape, begin, end } = header.tensors[i]!
      const bytes = end - begin
      const at = header.dataStart + begin
      let offset = at + shift
      if (bytes === 0) {
        // It has no bytes, so any aligned place will do.
        if (segments.current < 0) segments.start(0)
        const used = segments.bytes[segments.current]!
        tensors.push({ name, dtype, shape, bytes, segment: segments.current, offset: used - (used % TENSOR_ALIGNMENT) })
        continue
      }
      if (read === undefined || offset % TENSOR_ALIGNMENT !== 0 || !segments.fits(offset + bytes)) {
        offset = segments.start(bytes)
        shift = offset - at
        read = { source: file, sourceOffset: at, destination: segments.current, destinationOffset: offset, bytes: 0 }
        reads.push(read)
      }
      read.bytes += bytes
      segments.use(offset + bytes)
      totalBytes += bytes
      tensors.push({ name, dtype, shape, bytes, segment: segments.current, offset })
    }
  })
  return { segmentBytes: segments.sizes(), tensors, reads, totalBytes }
}

/** Lays out tensors from memory, in the given order, each at a multiple of {@link RUN_ALIGNMENT}. */
export function layoutTensors(specs: readonly TensorSpec[], segmentLimit: number): Layout {
  const segments = new Segments(segmentLimit)
  let totalBytes = 0
  const tensors = specs.map(({ name, dtype, shape, bytes }) => {
    const offset = segments.start(bytes)
    segments.use(offset + bytes)
    totalBytes += bytes
    return { name, dtype, shape, bytes, segment: segments.current, offset }
  })
  return { segmentBytes: segments.sizes(), tensors, reads: [], totalBytes }
}
