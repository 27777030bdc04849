import type { CkptError } from './errors.ts'

export interface CallOptions {
  readonly signal?: AbortSignal
  /** Deadline in milliseconds from now. */
  readonly timeoutMs?: number
}

export interface GatherOptions extends CallOptions {
  /** Participating ranks, ascending (default: all). Every one of them must call with the same list. */
  readonly ranks?: readonly number[]
  /** Epoch of the message: it fails if the epoch is aborted, and messages of an aborted epoch are dropped. */
  readonly epoch?: number
}

/** A payload that is sent only to ranks that do not know its digest yet. */
export interface Blob {
  readonly digest: string
  readonly payload: Uint8Array
}

/** One attempt at an update. */
export interface Epoch {
  readonly id: number
  /** Aborted (with a CkptError as its reason) when any rank aborts the epoch or is lost. */
  readonly signal: AbortSignal
}

/** What the coordinator knows of one rank. */
export interface RankReport {
  readonly rank: number
  /** Name of its host, and its process there. */
  readonly host: string
  readonly pid: number
  /** Reason why it is no longer a member; undefined while it is one. */
  readonly lost?: string
  /** Milliseconds since its last message. */
  readonly silentMs: number
  /** Payload of its last {@link Rendezvous.report}, if there was one. */
  readonly payload?: Uint8Array
}

/** Communication between ranks: small messages only. */
export interface Rendezvous {
  readonly rank: number
  /** Number of ranks; grows when ranks are added, which happens only while no rank waits for another. */
  readonly worldSize: number
  /** Reason why this rank is no longer a member; undefined while it is one. */
  readonly lost?: CkptError | undefined
  /** Longest time in milliseconds until a dead rank is noticed: the heartbeat window. */
  readonly lossMs: number
  /**
   * Returns every rank's value, ascending by rank. @throws CkptError `RANK_MISSING` naming the ranks, `RANK_LOST`, `ABORTED`.
   */
  allGather<T>(key: string, value: T, options?: GatherOptions): Promise<T[]>
  /** Returns every rank's payload, ascending by rank; payloads that this rank already holds (by digest) are not sent again. */
  allGatherBlobs(key: string, blob: Blob, options?: GatherOptions): Promise<Blob[]>
  /**
   * Stores a payload with the coordinator, replacing an earlier one of this key, for processes that are not ranks (yet) and
   * know the run's token. It is sent once, without an acknowledgement.
   */
  publish(key: string, payload: Uint8Array): void
  /** Tells the coordinator about this rank, replacing what it was told before: at most 16 KiB, without an acknowledgement. */
  report?(payload: Uint8Array): void
  /** Returns what the coordinator knows of each rank that has joined, ascending by rank. @throws CkptError `RANK_LOST`, `TIMEOUT`. */
  reports?(options?: CallOptions): Promise<RankReport[]>
  barrier(key: string, options?: GatherOptions): Promise<void>
  /** Starts an epoch together with the other ranks. */
  beginEpoch(options?: GatherOptions): Promise<Epoch>
  /** Ends a successful epoch (locally; nothing is sent). */
  endEpoch(epoch: Epoch): void
  /** Aborts an epoch on every rank. The first error wins and reaches all of them. */
  abortEpoch(epoch: Epoch, error: CkptError): void
  close(): Promise<void>
}
