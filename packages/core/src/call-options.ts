import type { CallOptions, EngineAdapter, UpdateStrategy, VerificationLevel } from '@ckpt/contract'

export interface GatherMetasOptions extends CallOptions {
  /** Compute every tensor's digest first (once per registration), so that updates can be verified (default false). */
  readonly digests?: boolean
  /** Also prepare updates of this engine (`ParameterServer.prepare`). All ranks give one, or none does. */
  readonly engine?: EngineAdapter
}

export interface PrepareOptions extends CallOptions {
  /** Adapter of the inference engine's workers. */
  readonly engine: EngineAdapter
  /** The strategy that the update will have (default `auto()`). */
  readonly strategy?: UpdateStrategy
  /** As for the update: what is compared is planned in advance. */
  readonly verify?: VerificationLevel | boolean
  /** As for the update. */
  readonly ringBytes?: number
}

/** What {@link ParameterServer.prepare} did. */
export interface PrepareReport {
  /** True if everything is ready that an update makes before bytes move. */
  readonly prepared: boolean
  /** True if it had been before: no engine was called. */
  readonly kept: boolean
  /** Reason why it is not prepared. The update is possible all the same. */
  readonly reason?: string
  /** Time in milliseconds. */
  readonly milliseconds: number
}

export interface UpdateOptions extends CallOptions {
  /** Adapter of the inference engine's workers. */
  readonly engine: EngineAdapter
  /**
   * Default: `auto()`, which sends each engine worker only what it needs if that is possible, and otherwise broadcasts.
   * `broadcast()` sends everything to every rank and never records the engine's loader.
   */
  readonly strategy?: UpdateStrategy
  /** Version that the engine reports afterwards (default: the checkpoint's name). */
  readonly version?: string
  /**
   * Extent of the verification. `bytes`: parameters are read back and compared with the registered bytes; a staged update is
   * recorded if that is necessary. `sources`: tensors are compared before they are loaded. `none`: nothing is compared.
   * Default: like `bytes`, but no update is recorded only for this purpose. The report gives the extent that was reached.
   * `true` is the default, `false` is `none`.
   */
  readonly verify?: VerificationLevel | boolean
  /** Maximum memory of the ring, in bytes (default: half the free memory, or `PS_MEM_FRACTION` of it). */
  readonly ringBytes?: number
  /** Preferred bucket size in bytes (default: chosen from the ring; at most `PS_MAX_BUCKET_SIZE_GB`). */
  readonly bucketBytes?: number
  /** Size of the chunks by which stages overlap, in bytes. */
  readonly chunkBytes?: number
  /** Keep ring and collective after this update (default: the setting of the parameter server). */
  readonly keepAlive?: boolean
  /**
   * Further attempts after a first one that failed for a reason that may pass (default 0). Tensors that every worker has
   * compared with their digests and loaded are not sent again, if the workers can tell that they still have them.
   */
  readonly retry?: number
  /**
   * If the update fails after workers received parts of it, restore the version that this parameter server applied last, if its
   * checkpoint is still registered (default false). The update's error is still thrown, with `rolledBack` or `rollbackError`.
   */
  readonly rollback?: boolean
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}
