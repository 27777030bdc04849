import type { DType } from './dtype.ts'

/** Where one rank's engine worker is to connect, and whose worker it is. */
export interface WorkerEndpoint {
  readonly rank: number
  readonly deviceUuid: string
  /** ZeroMQ address, `ipc://…`. */
  readonly address: string
}

/** What an adapter gets to start the workers of an engine for one update. */
export interface EngineStart {
  readonly rank: number
  /** All ranks taking part, ascending: an adapter starts an instance once, from the rank it chooses. */
  readonly endpoints: readonly WorkerEndpoint[]
  /** The run's token: workers must present it. */
  readonly token: string
  /** What the engine is to report as its version afterwards. */
  readonly version?: string
  readonly timeoutMs: number
  readonly signal: AbortSignal
}

/** The engine's side of one update, as seen by one rank. */
export interface EngineCall {
  /**
   * Resolves when the engine has finished its call; rejects (CkptError) when the engine failed or died. Absent on a rank that called
   * nothing, because another rank's call covers its worker.
   */
  readonly finished?: Promise<void>
}

/** What an engine worker says of itself. */
export interface WorkerState {
  /** The version it serves; null before the first commit. */
  readonly version: string | null
  /** Whether its parameters hold anything but a whole committed version: an update ended half-way. The next update repairs it. */
  readonly dirty: boolean
}

/**
 * What an engine's workers speak: `ckpt` is this project's worker protocol (docs/worker-protocol.md), `checkpoint-engine` that of
 * checkpoint-engine's stock worker extension (docs/compatibility.md), which compares no digests.
 */
export type WorkerProtocol = 'ckpt' | 'checkpoint-engine'

/** How an inference engine is told to start its workers. Implementations: `@ckpt/vllm`, `@ckpt/sglang`, the reference engine. */
export interface EngineAdapter {
  readonly name: string
  /** What its workers speak (default: `ckpt`). */
  readonly protocol?: WorkerProtocol
  /** Socket or URL at which the engine of a rank is reached, for messages. */
  readonly where?: (rank: number) => string
  /**
   * Waits until the engine answers; resolves to the state of the rank's worker, where the engine can tell.
   *
   * @throws CkptError `ENGINE_UNREACHABLE` past the deadline.
   */
  ready(options: {
    readonly rank: number
    readonly timeoutMs: number
    readonly signal: AbortSignal
  }): Promise<WorkerState | void>
  /** Starts the workers (on the ranks that must; a no-op elsewhere). */
  start(start: EngineStart): Promise<EngineCall>
}

/** A tensor as the engine worker sees it in the ring. */
export interface RingTensor {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  /** Byte offset from the start of the ring. */
  readonly offset: number
  readonly bytes: number
  readonly digest?: bigint
}

/** A rank's connection to its engine worker during one update. */
export interface EngineSession {
  /** Resolves when the worker has loaded the bucket and its ring bytes may be overwritten. Calls may overlap; workers answer in order. */
  load(bucket: number, tensors: readonly RingTensor[]): Promise<{ readonly reloadMs: number }>
}
