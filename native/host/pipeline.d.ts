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

/** What happens in a run, told on the JavaScript thread. */
export interface NativePipelineCallbacks {
  /** Every byte of the bucket is in the ring; in order. */
  onBucket(bucket: number): void
  /** Called once, with the error (code, message and, where a member is to blame, `member`) or the figures. */
  onFinished(error: Error | undefined, stats: NativePipelineStats | undefined): void
  /** No copy touches ring or sources any more; called once, after `onFinished`. */
  onDrained?(): void
  /** The ring bytes of an own bucket are free; in order, and only where bytes arrive in the ring. */
  onWritable?(bucket: number): void
}

/** A run under way; after its end no function does anything. */
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
  /** Starts a run of this member. @throws Error INVALID_ARGUMENT naming the field, the bucket or the copy. */
  startPipeline(job: NativePipelineJob, callbacks: NativePipelineCallbacks): NativePipeline
}
