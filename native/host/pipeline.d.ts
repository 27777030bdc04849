import type { NativeMemory } from './memory.d.ts'

/** One member's part of a pipeline; columns as in `@ckpt/contract`'s `PipelineJob`, `owner` by position. */
export interface NativePipelineJob {
  readonly position: number
  /** Memories with the members' rings, by position. */
  readonly rings: readonly NativeMemory[]
  readonly sources: readonly NativeMemory[]
  readonly bucketCount: number
  readonly owner: Uint32Array
  readonly bytes: Float64Array
  readonly ringOffset: Float64Array
  readonly after: Int32Array
  readonly copyCount: number
  readonly segment: Uint32Array
  readonly segmentOffset: Float64Array
  readonly bucketOffset: Float64Array
  readonly copyBytes: Float64Array
  readonly firstCopy: Uint32Array
  readonly chunkBytes: number
  readonly serial: boolean
  readonly timeoutMs: number
  /** The same for all members, above `ringGeneration` of every ring. */
  readonly generation: number
  /** Where bytes of own buckets come while the run is under way; undefined where the sources hold them already. */
  readonly arriveIn?: 'sources' | 'ring' | undefined
}

export interface NativePipelineStats {
  readonly h2dMs: number
  readonly broadcastMs: number
  readonly idleMs: number
  readonly h2dBytes: number
  readonly broadcastBytes: number
  readonly spans: Float64Array
}

/** A run under way; after its end both functions do nothing. */
export interface NativePipeline {
  /** @throws Error INVALID_ARGUMENT when the bucket was not delivered yet, INVALID_STATE when it was released before. */
  release(bucket: number): void
  /** @throws Error INVALID_ARGUMENT when the bucket is not one that arrives here, INVALID_STATE when it came before. */
  arrived(bucket: number): void
  abort(message: string): void
}

export interface NativePipelines {
  /** Bytes that a ring's memory needs before its data. */
  readonly ringDataOffset: number
  /** Makes a memory of at least `ringDataOffset + bytes` a ring. Returns where its data starts. */
  initialiseRing(memory: NativeMemory, bytes: number): number
  /** Removes the memory's name when the thread's environment ends, unless the function returned was called before. */
  unlinkAtEnd(memory: NativeMemory): () => void
  /** The last run that the ring took part in, 0 for none. */
  ringGeneration(memory: NativeMemory): number
  /** Tells the peers that this ring's member, at `position`, gives up a run before it has started it. */
  abortRingRun(memory: NativeMemory, generation: number, position: number, message: string): void
  /** `onFinished` is called once, with the error (code, message and, where one is to blame, `member`) or the stats. */
  startPipeline(
    job: NativePipelineJob,
    onBucket: (bucket: number) => void,
    onFinished: (error: Error | undefined, stats: NativePipelineStats | undefined) => void,
    /** Where bytes arrive in the ring: an own bucket's bytes of it are free; in order. */
    onWritable?: (bucket: number) => void,
  ): NativePipeline
}
