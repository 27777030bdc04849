import type { Collective, Device, Exchange, Ring } from './device.ts'
import type { EngineSession, WorkerEndpoint } from './engine.ts'
import type { HostMemory } from './host.ts'
import type { Manifest } from './manifest.ts'
import type { Reach, SpreadAccess } from './reach.ts'
import type { Blob } from './rendezvous.ts'
import type { Recording } from './routes.ts'
import type { StagedWay } from './staging.ts'
import type { TensorMeta } from './tensor.ts'
import type { UpdateOutcome, VerificationLevel } from './update-report.ts'
import type { RecordingSession, UpdateSession } from './worker-session.ts'

/**
 * A way to move a checkpoint into engines. `@ckpt/broadcast`, `@ckpt/p2p` and `@ckpt/direct` create these; a new one is a
 * separate package that imports `@ckpt/contract` and usually `@ckpt/staging`.
 */
export interface UpdateStrategy {
  readonly name: string
  /** Ranks that receive, and that call `update`; absent: all. */
  readonly ranks?: readonly number[]
  /** Options for which all ranks must pass the same values. */
  readonly options?: Readonly<Record<string, string | number | boolean>>
  /** True if some of its updates do not use rings; its attempts say which. Absent: all updates use rings. */
  readonly mayNeedNoRing?: boolean
  /** Returns what this rank tells the other ranks when an update begins: plain JSON. */
  announce?(kept: KeptByRank): unknown
  /**
   * Decides how to do this update. All ranks call it at the same time, and must make the same decision, from data that is the
   * same on all of them and data that they exchange.
   *
   * @throws CkptError fails the update on all ranks
   */
  begin(context: UpdateContext): Promise<UpdateAttempt>
  /**
   * Does what an update of this checkpoint would do before bytes move, and keeps it for that update. All ranks call it at the same
   * time. Resolves to the reason if such an update cannot be prepared; it may still be possible. Absent if there is nothing to
   * prepare.
   */
  prepare?(context: UpdateContext): Promise<string | undefined>
  /** Returns true if this rank has everything that `prepare` would make for such a checkpoint. */
  isPrepared?(kept: KeptByRank, manifest: Manifest, segments: readonly HostMemory[]): boolean
}

/** @deprecated Since 0.2: use {@link UpdateStrategy}. */
export type Strategy = UpdateStrategy

/**
 * One attempt at an update on one rank. Its methods are called in this order, once each: `plan`, `attach`, `execute`,
 * `assertIntact`, `release`, `worker`, `staged`, `vote`, `outcome`, `committed`. If one of them throws, on any rank, only
 * `close` follows.
 */
export interface UpdateAttempt {
  /** True if any bytes pass through a ring. */
  readonly usesRing: boolean
  /**
   * The own worker, if its recording is known before the bytes move: the comparison of its parameters is then planned meanwhile.
   * All ranks know theirs, or none does.
   */
  readonly known?: CheckedWorker
  plan(): Promise<void>
  /** Creates ring and collective, and hands the ring to the worker. */
  attach(): Promise<void>
  /** Moves the bytes. No transfer is in flight when it settles. */
  execute(): Promise<void>
  /** @throws CkptError `MEMORY_CHANGED` naming the file, if the bytes read differ from the registered ones. */
  assertIntact?(): void
  /** Tells the worker to finish loading, because all bytes have arrived. */
  release(): Promise<void>
  /** Returns the own worker with a recording by which its parameters can be read back; undefined if there is none. */
  worker(): Promise<CheckedWorker | undefined>
  /** Names of the tensors that passed through the ring; undefined for all. */
  staged(): ReadonlySet<string> | undefined
  /** Tensors that this rank's worker has prepared: no rank commits unless all report the same. */
  vote(): PreparedTensors
  outcome(): UpdateOutcome
  /** Called after all workers have committed. */
  committed?(): void
  /** Called if the worker's parameters contradict this recording: it must not be used again. */
  distrust?(recording: Recording): void
  /** Releases what only this attempt holds; called last, after success or failure. */
  close?(): void
}

/** Tensors that a worker received, as ranks vote on them. */
export interface PreparedTensors {
  /** Digest of the manifest of these tensors. */
  readonly manifestDigest: string
  readonly tensors: number
  readonly bytes: number
}

/** A worker whose parameters can be read back. */
export interface CheckedWorker {
  readonly session: RecordingSession
  readonly recording: Recording
  /**
   * True if its parameters were written by this recording, or if the ring comparison was reduced because of it, so that it must
   * still match.
   */
  readonly required: boolean
}

/** State that a strategy, or code shared by strategies, keeps on one rank between updates. */
export interface Kept {
  /** Called after a successful update: this state is not used until the next update begins. */
  idle?(): Promise<void>
  /** Releases memory of checkpoints and of engines: called after a failed update, and before that memory is released. */
  release?(): Promise<void>
}

/** State kept on one rank, one object per class. */
export interface KeptByRank {
  /** Returns the kept object, created on first use. Methods of {@link Kept} that it has are called. */
  of<T extends object>(type: new () => T): T
}

/** Context of an update on one rank. */
export interface UpdateContext {
  readonly rank: number
  /** Participating ranks, ascending. */
  readonly ranks: readonly number[]
  readonly manifest: Manifest
  /** The same manifest, in which ranks share a host only if they have proved to each other that they share its memory. */
  readonly provenManifest: Manifest
  /** This rank's segments of the checkpoint, by segment index; leased for the whole update. */
  readonly segments: readonly HostMemory[]
  readonly device: Device
  readonly session: UpdateSession
  /** Loads buckets through the session, and records what was loaded: for pipelines. */
  readonly loading: EngineSession
  /** Engine workers of the participating ranks. */
  readonly endpoints: readonly WorkerEndpoint[]
  /** Announcement of each participating rank, in the same order. */
  readonly announced: readonly unknown[]
  readonly kept: KeptByRank
  /** Moves buckets into the rings of all ranks, for the staged part of a strategy. */
  readonly staged: StagedWay
  readonly ring: RingAccess
  readonly exchanges: Exchanges
  /** Returns access to the ranks that hold the checkpoint; endpoints are created on the first call. */
  readonly reach: () => Promise<Reach>
  /** Access of the participating ranks to each other, if not all of them share memory. */
  readonly spread?: SpreadAccess
  /** True if the participating ranks are not ranks of the manifest. */
  readonly joining: boolean
  /**
   * Reserves memory under the checkpoint's name, for bytes that stay: it is registered in the end, or released.
   *
   * @throws CkptError `CHECKPOINT_EXISTS`, `OUT_OF_MEMORY`.
   */
  readonly reserve: (segmentBytes: readonly number[]) => Promise<ReservedMemory>
  readonly verify: VerifyOptions
  /** Previous failed attempt; only what it did not transfer needs to be sent. */
  readonly failed?: FailedAttempt
  readonly timeoutMs: number
  readonly signal: AbortSignal
  /** Called with the bytes that this rank's worker has received so far. */
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}

/** Ring and collective of this rank: created for an update, or kept from the last. Sizes in bytes. */
export interface RingAccess {
  /** Maximum size of a ring: the minimum over the ranks. */
  readonly limitBytes: number
  /** Null: chosen from the ring's size. */
  readonly bucketBytes: number | null
  readonly maxBucketBytes: number
  readonly chunkBytes: number
  /**
   * Ranks whose collective `join` joins, ascending: all participating ones, or those of them that share memory with this rank if
   * the device's collectives need that. The latter pull what other ranks hold.
   */
  readonly members: readonly number[]
  /** Creates a ring of exactly this many bytes. */
  make(bytes: number): Promise<Ring>
  /** Joins the collective of `members`; all of them call it. */
  join(): Promise<Collective>
}

/**
 * Exchanges between participating ranks: small values (`gather`), and larger ones that are sent only if they changed
 * (`gatherBlobs`).
 */
export interface Exchanges {
  readonly gather: Exchange
  gatherBlobs(key: string, blob: Blob): Promise<Blob[]>
}

/** Extent of an update's verification. */
export interface VerifyOptions {
  readonly level: VerificationLevel
  /** True if a staged update is recorded only so that parameters can be compared. */
  readonly record: boolean
  /** Names of the tensors that a worker must compare in the ring, although its parameters are read back afterwards. */
  comparedInRing(recording: Recording): ReadonlySet<string>
}

/** State that a failed attempt left at this rank's worker. */
export interface FailedAttempt {
  /** The worker's name for its parameters at that time; undefined if it reports none. */
  readonly workerState: string | undefined
  /** Names of tensors that it compared with their digests and loaded. */
  readonly loaded: ReadonlySet<string> | undefined
}

/** Memory for a checkpoint whose bytes an update transfers. It is registered in the end, or released. */
export interface ReservedMemory {
  /** Memories by segment index, at least as large as requested. */
  readonly segments: readonly HostMemory[]
  /** Registers the current contents. `digests`: of every tensor, if known. */
  register(tensors: readonly TensorMeta[], digests?: BigUint64Array): void
  /** Releases the memory, unless it has been registered. */
  release(): void
}
