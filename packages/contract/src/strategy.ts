import type { Collective, PipelineStats, Ring } from './device.ts'
import type { EngineSession, RingTensor } from './engine.ts'
import type { HostMemory } from './host.ts'
import type { CopyColumns, TransferPlan } from './plan.ts'

/** What a strategy works with on one rank. */
export interface StrategyContext {
  readonly rank: number
  readonly plan: TransferPlan
  /** Copies from `segments` into the buckets this rank owns. */
  readonly copies: CopyColumns
  /** The tensors of a bucket as they lie in the ring. */
  readonly tensorsOf: (bucket: number) => readonly RingTensor[]
  readonly ring: Ring
  readonly collective: Collective
  readonly session: EngineSession
  /** This rank's segments of the checkpoint, by segment index; leased for the whole update. */
  readonly segments: readonly HostMemory[]
  readonly timeoutMs: number
  readonly signal: AbortSignal
  /** Called with the bytes that this rank's worker has loaded so far. */
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}

export interface StrategyResult {
  readonly stats: PipelineStats
  /** Time the worker reported for loading, in milliseconds. */
  readonly reloadMs: number
  /** `performance.now()` just before the pipeline began: the zero of `stats.spans` and `reloadSpans`. */
  readonly startedAt: number
  /** [bucket, start, end] of each load, in milliseconds since the pipeline began: from handing it over to the worker's answer. */
  readonly reloadSpans: Float64Array
}

/** Executes a plan over the interfaces it is given. */
export interface Strategy {
  readonly name: 'broadcast' | 'p2p' | 'direct'
  /** The ranks that receive; absent means all. */
  readonly ranks?: readonly number[]
  execute(context: StrategyContext): Promise<StrategyResult>
}
