import type { CkptError } from './errors.ts'

export interface CallOptions {
  readonly signal?: AbortSignal
  /** Deadline in milliseconds from now. */
  readonly timeoutMs?: number
}

export interface GatherOptions extends CallOptions {
  /** Ranks that take part, ascending (default: all). Every one of them must call with the same list. */
  readonly ranks?: readonly number[]
  /** Epoch the message belongs to: it fails when the epoch is aborted, and messages of an aborted epoch are dropped. */
  readonly epoch?: number
}

/** A payload that is sent only where its digest is not known yet. */
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

/** Ranks finding each other: small messages only. */
export interface Rendezvous {
  readonly rank: number
  /** Number of ranks; grows when ranks are added, which happens only while nobody waits for anybody. */
  readonly worldSize: number
  /** Why this rank is a member no more; undefined while it is one. */
  readonly lost?: CkptError | undefined
  /** How long it can take until a rank that is gone is noticed, in milliseconds: the heartbeat window. */
  readonly lossMs: number
  /** Every rank's value, ascending by rank. @throws CkptError `RANK_MISSING` naming the ranks, `RANK_LOST`, `ABORTED`. */
  allGather<T>(key: string, value: T, options?: GatherOptions): Promise<T[]>
  /**
   * Every rank's payload, ascending by rank; payloads that this rank already holds (by digest) are not sent again.
   */
  allGatherBlobs(key: string, blob: Blob, options?: GatherOptions): Promise<Blob[]>
  /**
   * Leaves a payload with the coordinator, in the place of an earlier one of this key, for processes that are no ranks (yet) and know
   * the run's token. Sent once; nobody says that it has come.
   */
  publish(key: string, payload: Uint8Array): void
  barrier(key: string, options?: GatherOptions): Promise<void>
  /** Starts an epoch together with the other ranks. */
  beginEpoch(options?: GatherOptions): Promise<Epoch>
  /** Ends an epoch that went well (locally; nothing is sent). */
  endEpoch(epoch: Epoch): void
  /** Aborts an epoch on every rank. The first error wins and reaches all of them. */
  abortEpoch(epoch: Epoch, error: CkptError): void
  close(): Promise<void>
}
