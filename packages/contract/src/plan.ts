/** Mode in which buckets pass through the ring. */
export type PipelineMode = 'pipelined' | 'serial'

/** Buckets as columns, in the order in which every rank processes them. */
export interface BucketColumns {
  readonly count: number
  /** Rank that holds the bucket's bytes in host memory. */
  readonly owner: Uint32Array
  /** Rank that copies them into device memory; the owner itself in a broadcast. */
  readonly receiver: Uint32Array
  /** Round of the bucket: a round has at most one bucket per owner. */
  readonly round: Uint32Array
  /** Size in bytes, including alignment gaps. */
  readonly bytes: Float64Array
  /** Position in the ring in bytes; the same on all ranks. */
  readonly ringOffset: Float64Array
  /** Last earlier bucket whose ring bytes this one overwrites and which must have been released before; -1 if there is none. */
  readonly after: Int32Array
  /** Items of bucket b are firstItem[b] … firstItem[b + 1] - 1; count + 1 entries. */
  readonly firstItem: Uint32Array
}

/** Tensors in buckets as columns; each moved tensor appears exactly once. */
export interface ItemColumns {
  readonly count: number
  /** Index of the tensor in its owner's table. */
  readonly tensor: Uint32Array
  /** Byte offset from the start of the bucket. */
  readonly bucketOffset: Float64Array
}

/** Immutable data that says who moves which bytes, and when. The same input always gives the same plan. */
export interface TransferPlan {
  readonly strategy: 'broadcast' | 'p2p'
  /** Digest of the manifest from which the plan was made. */
  readonly manifestDigest: string
  /** Ranks that receive the checkpoint, ascending. */
  readonly ranks: readonly number[]
  readonly mode: PipelineMode
  /** Reason for the mode, as text. */
  readonly modeReason: string
  /** Size in bytes of the ring for which the offsets are computed. */
  readonly ringBytes: number
  /** Preferred bucket size in bytes; only a bucket with one larger tensor exceeds it. */
  readonly bucketBytes: number
  /** Size in bytes of the chunks that the pipeline overlaps inside a bucket. */
  readonly chunkBytes: number
  readonly rounds: number
  /** Sum of the tensors' bytes. */
  readonly totalBytes: number
  readonly buckets: BucketColumns
  readonly items: ItemColumns
}

/** Runs of bytes that one rank's segments hold of a bucket, as columns. */
export interface PullRuns {
  /** Rank of the manifest. */
  readonly rank: number
  readonly count: number
  /** Index of the rank's segment. */
  readonly segment: Float64Array
  readonly segmentOffset: Float64Array
  readonly bucketOffset: Float64Array
  readonly bytes: Float64Array
}

/** Sources from which a bucket's bytes can be read. */
export interface BucketPull {
  /** One entry per rank. */
  readonly from: readonly PullRuns[]
  /** Names of tensors that no readable rank holds. */
  readonly missing: readonly string[]
}

/** Copies from one rank's segments into its own buckets, merged where source and destination are contiguous. */
export interface CopyColumns {
  readonly count: number
  /** Index of the owner's segment. */
  readonly segment: Uint32Array
  readonly segmentOffset: Float64Array
  readonly bucketOffset: Float64Array
  readonly bytes: Float64Array
  /** Copies of the plan's bucket b are firstCopy[b] … firstCopy[b + 1] - 1 (none if a different rank owns b). */
  readonly firstCopy: Uint32Array
}
