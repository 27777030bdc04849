import type { TensorTable } from './tensor.ts'

/** One registered range of host memory on a rank, as other ranks see it. */
export interface SegmentMeta {
  /** Size in bytes. */
  readonly bytes: number
  /** `anonymous` and `shared` memory is ckpt's own; `file` is a file in /dev/shm that is used in place. */
  readonly kind: 'anonymous' | 'shared' | 'file'
}

/** What one rank holds of a checkpoint. */
export interface RankMetas {
  readonly rank: number
  /** Name of the host the rank runs on. */
  readonly host: string
  /** UUID of the rank's device (`GPU-…` for CUDA, `HOST-…` for the host device). */
  readonly deviceUuid: string
  readonly segments: readonly SegmentMeta[]
  readonly tensors: TensorTable
  /** Digest of this rank's part: equal digests mean equal metas. */
  readonly digest: string
}

/** Everybody's segments and tensors of one checkpoint, gathered. Ranks that hold nothing are present with zero tensors. */
export interface Manifest {
  readonly checkpoint: string
  /** Digest over all ranks' digests. */
  readonly digest: string
  /** One entry a rank, ascending by rank. */
  readonly ranks: readonly RankMetas[]
}
