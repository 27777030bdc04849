import type { NativeMemory } from './memory.d.ts'

/** One member's part of a pipeline; columns as in `@ckpt/contract`'s `PipelineJob`, `owner` by position. */
export interface NativePipelineJob {
  readonly position: number
  /** Memories of the members' rings, by position. */
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
  /** The same for all members, and greater than `ringGeneration` of every ring. */
  readonly generation: number
  /** Where bytes of own buckets arrive during the run; undefined if the sources already contain them. */
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

/** Events of a run, reported on the JavaScript thread. */
export interface NativePipelineCallbacks {
  /** All bytes of the bucket are in the ring; called in order. */
  onBucket(bucket: number): void
  /** Called once, with the error (code, message and, if a member caused it, `member`) or the statistics. */
  onFinished(error: Error | undefined, stats: NativePipelineStats | undefined): void
  /** No copy accesses ring or sources any more; called once, after `onFinished`. */
  onDrained?(): void
  /** The ring bytes of an own bucket are free; called in order, and only if bytes arrive in the ring. */
  onWritable?(bucket: number): void
}

/** A run; after it has ended, its functions do nothing. */
export interface NativePipeline {
  /** @throws Error INVALID_ARGUMENT if the bucket was not delivered yet, INVALID_STATE if it was already released. */
  release(bucket: number): void
  /** @throws Error INVALID_ARGUMENT if the bucket does not arrive here, INVALID_STATE if it has already arrived. */
  arrived(bucket: number): void
  abort(message: string): void
}

export interface NativePipelines {
  /** Bytes at the beginning of a ring's memory, before its data. */
  readonly ringDataOffset: number
  /** Initialises a memory of at least `ringDataOffset + bytes` bytes as a ring. Returns the offset of its data. */
  initialiseRing(memory: NativeMemory, bytes: number): number
  /** Removes the memory's name when the thread's environment ends, unless the returned function was called before. */
  unlinkAtEnd(memory: NativeMemory): () => void
  /** Generation of the last run that used the ring, 0 for none. */
  ringGeneration(memory: NativeMemory): number
  /** Tells the peers that this ring's member, at `position`, aborts a run that it has not started yet. */
  abortRingRun(memory: NativeMemory, generation: number, position: number, message: string): void
  /** Starts a run of this member. @throws Error INVALID_ARGUMENT naming the field, the bucket or the copy. */
  startPipeline(job: NativePipelineJob, callbacks: NativePipelineCallbacks): NativePipeline
}
