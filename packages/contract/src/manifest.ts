import type { TensorTable } from './tensor.ts'

/** One registered range of host memory on a rank, as other ranks see it. */
export interface SegmentMeta {
  /** Size in bytes. */
  readonly bytes: number
  /** `anonymous` and `shared` memory belongs to ckpt; `file` is a file in /dev/shm that is used in place. */
  readonly kind: 'anonymous' | 'shared' | 'file'
}

/** Part of a checkpoint that one rank holds. */
export interface RankMetas {
  readonly rank: number
  /** Name of the rank's host. */
  readonly host: string
  /** UUID of the rank's device (`GPU-…` for CUDA, `HOST-…` for the host device). */
  readonly deviceUuid: string
  readonly segments: readonly SegmentMeta[]
  readonly tensors: TensorTable
  /** Digest of this rank's part: equal digests mean equal metas. */
  readonly digest: string
}

/** Segments and tensors of one checkpoint, gathered from all ranks. Ranks that hold nothing are present with zero tensors. */
export interface Manifest {
  readonly checkpoint: string
  /** Digest over all ranks' digests. */
  readonly digest: string
  /** One entry per rank, ascending by rank. */
  readonly ranks: readonly RankMetas[]
}
