import type { CallOptions, EngineAdapter, UpdateStrategy, VerificationLevel } from '@ckpt/contract'

export interface GatherMetasOptions extends CallOptions {
  /** Compute every tensor's digest first (once a registration), so that updates can be verified by them (default false). */
  readonly digests?: boolean
}

export interface UpdateOptions extends CallOptions {
  /** How the inference engine's workers are reached. */
  readonly engine: EngineAdapter
  /** Default: broadcast to all ranks. See `direct()` for updates that bring each engine worker only what it needs. */
  readonly strategy?: UpdateStrategy
  /** What the engine reports as its version afterwards (default: the checkpoint's name). */
  readonly version?: string
  /**
   * How far the update is verified. `bytes`: parameters are read back and compared with what was registered; a staged update is recorded
   * where that takes a recording. `sources`: tensors are compared before they are loaded. `none`: nothing is. Default: as `bytes`, but no
   * update is recorded for that alone. The report says how far it came. `true` is the default, `false` is `none`.
   */
  readonly verify?: VerificationLevel | boolean
  /** Most memory the ring may take, in bytes (default: half the free memory, or `PS_MEM_FRACTION` of it). */
  readonly ringBytes?: number
  /** Preferred bucket size in bytes (default: chosen from the ring; at most `PS_MAX_BUCKET_SIZE_GB`). */
  readonly bucketBytes?: number
  /** Size of what the stages overlap, in bytes. */
  readonly chunkBytes?: number
  /** Keep ring and collective after this update (default: as the parameter server was made). */
  readonly keepAlive?: boolean
  /**
   * Attempts after a first one that failed for a reason that may pass (default 0). Tensors that every worker has compared with their digests
   * and loaded are not sent again, where the workers can tell that they still have them.
   */
  readonly retry?: number
  /**
   * When the update fails after workers were given parts of it: restore the version that this parameter server gave them last, if its
   * checkpoint is still registered (default false). The update's error is thrown all the same, with `rolledBack` or `rollbackError`.
   */
  readonly rollback?: boolean
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}
