import type { Collective, Device, Exchange, Ring } from './device.ts'
import type { EngineSession, WorkerEndpoint } from './engine.ts'
import type { HostMemory } from './host.ts'
import type { Manifest } from './manifest.ts'
import type { EndpointDescriptor, OneSided, OneSidedPeer, RegionDescriptor } from './one-sided.ts'
import type { Blob } from './rendezvous.ts'
import type { Recording } from './routes.ts'
import type { StagedWay } from './staging.ts'
import type { TensorMeta } from './tensor.ts'
import type { UpdateOutcome, VerificationLevel } from './update-report.ts'
import type { RecordingSession, UpdateSession } from './worker-session.ts'

/**
 * A way to bring a checkpoint into engines. `@ckpt/broadcast`, `@ckpt/p2p` and `@ckpt/direct` make these; a new one is a package of its
 * own that imports `@ckpt/contract`, and as a rule `@ckpt/staging`.
 */
export interface UpdateStrategy {
  readonly name: string
  /** The ranks that receive, and that call `update`; absent: all. */
  readonly ranks?: readonly number[]
  /** Its options, as far as all ranks must call with the same. */
  readonly options?: Readonly<Record<string, string | number | boolean>>
  /** True if some of its updates pass nothing through rings: which, its attempts say. Absent: all pass through rings. */
  readonly mayNeedNoRing?: boolean
  /** What this rank tells the other ranks as an update begins: plain JSON. */
  announce?(kept: KeptByRank): unknown
  /**
   * Decides how this update is done. All ranks call it at the same time, and must come to the same decision: by what is the same on all
   * of them, and by what they tell each other.
   *
   * @throws CkptError the update fails with it, on all ranks
   */
  begin(context: UpdateContext): Promise<UpdateAttempt>
}

/** @deprecated Since 0.2: {@link UpdateStrategy}. */
export type Strategy = UpdateStrategy

/**
 * One attempt at an update on one rank. Its methods are called in this order, once each: `plan`, `attach`, `execute`, `assertIntact`,
 * `release`, `worker`, `staged`, `vote`, `outcome`, `committed`. Where one of them throws, on any rank, only `close` follows.
 */
export interface UpdateAttempt {
  /** True if anything passes through a ring. */
  readonly usesRing: boolean
  plan(): Promise<void>
  /** Makes ring and collective, and hands the worker its part. */
  attach(): Promise<void>
  /** Moves the bytes. No transfer is under way when it settles. */
  execute(): Promise<void>
  /** @throws CkptError `MEMORY_CHANGED` naming the file, where what was read is not what was registered. */
  assertIntact?(): void
  /** All bytes are there: the worker finishes loading. */
  release(): Promise<void>
  /** The own worker with a recording by which its parameters can be read back; undefined where there is none. */
  worker(): Promise<CheckedWorker | undefined>
  /** Names of the tensors that came through the ring; undefined for all. */
  staged(): ReadonlySet<string> | undefined
  /** What this rank's worker is prepared with: no rank commits unless all say the same. */
  vote(): PreparedTensors
  outcome(): UpdateOutcome
  /** All workers have committed. */
  committed?(): void
  /** The worker's parameters are not what this recording let expect: it must not be used again. */
  distrust?(recording: Recording): void
  /** Gives back what this attempt alone has; called last, however it ended. */
  close?(): void
}

/** What a worker was given, as ranks vote on it. */
export interface PreparedTensors {
  /** Of the manifest whose tensors these are. */
  readonly manifestDigest: string
  readonly tensors: number
  readonly bytes: number
}

/** A worker whose parameters can be read back. */
export interface CheckedWorker {
  readonly session: RecordingSession
  readonly recording: Recording
  /** True if its parameters were written by this recording, or less was compared in the ring for it, so that it must still fit. */
  readonly required: boolean
}

/** What a strategy, or what strategies share, keeps on one rank from one update to the next. */
export interface Kept {
  /** Called when an update went well: nothing of this is in use until the next one begins. */
  idle?(): Promise<void>
  /** Releases memory of checkpoints and of engines: called when an update failed, and before that memory is given back. */
  release?(): Promise<void>
}

/** What is kept on one rank, one of each class. */
export interface KeptByRank {
  /** The one that is kept, made the first time. It is told of what {@link Kept} names, where it has such methods. */
  of<T extends object>(type: new () => T): T
}

/** What an update works with on one rank. */
export interface UpdateContext {
  readonly rank: number
  /** Those that take part, ascending. */
  readonly ranks: readonly number[]
  readonly manifest: Manifest
  /** The same, in which ranks have one host only where they have proved to each other that they share its memory. */
  readonly provenManifest: Manifest
  /** This rank's segments of the checkpoint, by segment index; leased for the whole update. */
  readonly segments: readonly HostMemory[]
  readonly device: Device
  readonly session: UpdateSession
  /** Loads buckets by way of the session, and notes what was loaded: for pipelines. */
  readonly loading: EngineSession
  /** The engine workers of those that take part. */
  readonly endpoints: readonly WorkerEndpoint[]
  /** What each of them announced, in the same order. */
  readonly announced: readonly unknown[]
  readonly kept: KeptByRank
  /** How buckets come into the rings of all ranks, for what a strategy has staged. */
  readonly staged: StagedWay
  readonly ring: RingAccess
  readonly exchanges: Exchanges
  /** How ranks that hold the checkpoint are read from; endpoints are made when this is called first. */
  readonly reach: () => Promise<Reach>
  /** True if those that take part are not ranks of the manifest. */
  readonly joining: boolean
  /**
   * Memory under the checkpoint's name, in which bytes stay: registered in the end, or given back.
   *
   * @throws CkptError `CHECKPOINT_EXISTS`, `OUT_OF_MEMORY`.
   */
  readonly reserve: (segmentBytes: readonly number[]) => Promise<ReservedMemory>
  readonly verify: VerifyOptions
  /** An attempt before this one, where only what it did not bring need be sent. */
  readonly failed?: FailedAttempt
  readonly timeoutMs: number
  readonly signal: AbortSignal
  /** Called with the bytes that this rank's worker has so far. */
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}

/** This rank's ring and collective: made for an update, or kept from the last. Sizes in bytes. */
export interface RingAccess {
  /** The most that a ring may take: the minimum over the ranks. */
  readonly limitBytes: number
  /** Null: chosen from the ring. */
  readonly bucketBytes: number | null
  readonly maxBucketBytes: number
  readonly chunkBytes: number
  /** A ring of exactly so many bytes. */
  make(bytes: number): Promise<Ring>
  /** The collective of those that take part; all of them call it. */
  join(): Promise<Collective>
}

/** Those that take part tell each other small values (`gather`) and larger ones that are sent only when they changed (`gatherBlobs`). */
export interface Exchanges {
  readonly gather: Exchange
  gatherBlobs(key: string, blob: Blob): Promise<Blob[]>
}

/** How far an update is verified. */
export interface VerifyOptions {
  readonly level: VerificationLevel
  /** True if a staged update is recorded only so that parameters can be compared. */
  readonly record: boolean
  /** Names of the tensors that a worker must compare in the ring, although its parameters are read afterwards. */
  comparedInRing(recording: Recording): ReadonlySet<string>
}

/** What an attempt that failed left with this rank's worker. */
export interface FailedAttempt {
  /** The worker's name for the parameters it had then; undefined where it does not say. */
  readonly workerState: string | undefined
  /** Names of tensors that it compared with their digests and loaded. */
  readonly loaded: ReadonlySet<string> | undefined
}

/** Memory for a checkpoint whose bytes an update brings. Either it is registered in the end, or given back. */
export interface ReservedMemory {
  /** By segment index, as large as was asked for or larger. */
  readonly segments: readonly HostMemory[]
  /** Registers what lies there now. `digests`: of every tensor, where they are known. */
  register(tensors: readonly TensorMeta[], digests?: BigUint64Array): void
  /** Gives the memory back, unless it has been registered. */
  release(): void
}

/** An endpoint through which one rank's segments of a checkpoint can be read. Plain JSON. */
export interface AccessPoint {
  readonly endpoint: EndpointDescriptor
  /** By segment index. Keys are those of one registration of the checkpoint: a later one has others. */
  readonly regions: readonly RegionDescriptor[]
  /** Number of that registration among all that the endpoint has served, from 1; absent where it was not said. */
  readonly generation?: number
  /** What the endpoint wants proven. */
  readonly secret: string
}

/** How others read what one rank holds of a checkpoint. */
export interface RankAccess {
  readonly rank: number
  /** The best first; a reader takes the first of a kind that it has. Empty where the rank serves nothing. */
  readonly points: readonly AccessPoint[]
}

/** How the ranks of a manifest are read from. */
export interface Reach {
  readonly access: readonly RankAccess[]
  /** This rank's endpoints, to connect from. */
  readonly endpoints: readonly OneSided[]
  /** @throws CkptError as of `reachRank` of `@ckpt/p2p`. */
  connect(rank: number, options: { readonly timeoutMs: number; readonly signal: AbortSignal }): Promise<ReachedRank>
}

/** A rank that is connected to, and how its memory is asked for. */
export interface ReachedRank {
  readonly peer: OneSidedPeer
  readonly point: AccessPoint
}
