import type { DType } from './dtype.ts'

/** Address to which one rank's engine worker connects, with the rank. */
export interface WorkerEndpoint {
  readonly rank: number
  readonly deviceUuid: string
  /** ZeroMQ address, `ipc://…`. */
  readonly address: string
}

/** Arguments for an adapter to start the workers of an engine for one update. */
export interface EngineStart {
  readonly rank: number
  /** Endpoints of all participating ranks, ascending. An adapter starts each instance once, from the rank it chooses. */
  readonly endpoints: readonly WorkerEndpoint[]
  /** The run's token: workers must present it. */
  readonly token: string
  /** Version that the engine should report afterwards. */
  readonly version?: string
  readonly timeoutMs: number
  readonly signal: AbortSignal
}

/** The engine's side of one update, as seen by one rank. */
export interface EngineCall {
  /**
   * Resolves when the engine has finished its call; rejects (CkptError) if the engine failed or died. Absent on a rank that
   * called nothing, because another rank's call covers its worker.
   */
  readonly finished?: Promise<void>
}

/** State that an engine worker reports. */
export interface WorkerState {
  /** Version that it serves; null before the first commit. */
  readonly version: string | null
  /**
   * True if its parameters are not those of one complete committed version, because an update failed partway. The next update
   * repairs it.
   */
  readonly dirty: boolean
}

/**
 * Protocol of an engine's workers: `ckpt` is this project's worker protocol (docs/worker-protocol.md), `checkpoint-engine` that
 * of checkpoint-engine's stock worker extension (docs/compatibility.md), which compares no digests.
 */
export type WorkerProtocol = 'ckpt' | 'checkpoint-engine'

/** Starts the workers of an inference engine. Implementations: `@ckpt/vllm`, `@ckpt/sglang`, the reference engine. */
export interface EngineAdapter {
  readonly name: string
  /** Protocol of its workers (default: `ckpt`). */
  readonly protocol?: WorkerProtocol
  /** Socket or URL of a rank's engine, for messages. */
  readonly where?: (rank: number) => string
  /**
   * Waits until the engine answers; resolves to the state of the rank's worker, if the engine can report it.
   *
   * @throws CkptError `ENGINE_UNREACHABLE` after the deadline.
   */
  ready(options: {
    readonly rank: number
    readonly timeoutMs: number
    readonly signal: AbortSignal
  }): Promise<WorkerState | void>
  /** Starts the workers (on the ranks that must start them; does nothing on others). */
  start(start: EngineStart): Promise<EngineCall>
  /**
   * Tells the workers to connect and answer questions, as for an update, but to leave their parameters as they are. Absent if the
   * engine cannot do that.
   */
  prepare?(start: EngineStart): Promise<EngineCall>
}

/** A tensor in the ring, as the engine worker sees it. */
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
