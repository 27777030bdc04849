import type {
  CkptError,
  Device,
  EngineAdapter,
  HostMemory,
  Manifest,
  Rendezvous,
  SpreadAccess,
  StagedWay,
  UpdateContext,
  UpdateStrategy,
  VerificationLevel,
  Waiting,
} from '@ckpt/contract'
import type { Nearness } from '../near/nearness.ts'
import type { ParameterCheck } from '../verify/parameter-check.ts'
import type { Announcement } from './announcement.ts'
import type { KeptParts } from './kept-parts.ts'
import type { UpdateProgress } from './progress.ts'
import type { UpdateResources } from './resources.ts'

/** Everything that one update needs, resolved. */
export interface UpdateRun {
  readonly rendezvous: Rendezvous
  readonly device: Device
  readonly engine: EngineAdapter
  readonly strategy: UpdateStrategy
  readonly version: string
  readonly held: HeldCheckpoint
  readonly keep: RankParts
  readonly ring: RingLimits
  readonly verify: VerifyRun
  readonly worker: WorkerAccess
  readonly timeoutMs: number
  readonly signal: AbortSignal
  /** Describes how to recover from a failure of this update; the ranks must agree on it. */
  readonly recovery: string
  /** Records the progress of this attempt. */
  readonly progress: UpdateProgress
  /** The previous attempt, if only missing tensors are to be sent. */
  readonly failed?: UpdateProgress
  readonly events: UpdateEvents
}

/** The checkpoint, and this rank's part of it. */
export interface HeldCheckpoint extends Pick<UpdateContext, 'reach' | 'joining' | 'reserve'> {
  /** Opens memory to the other ranks of an update, and connects to what they opened. */
  readonly opening: Pick<SpreadAccess, 'open' | 'connect'>
  readonly manifest: Manifest
  /** Memories by segment index; empty if this rank holds nothing of it. */
  readonly segments: readonly HostMemory[]
}

/** State that a rank keeps between updates. */
export interface RankParts {
  readonly resources: UpdateResources
  readonly strategies: KeptParts
  /** Knows which ranks share memory. */
  readonly nearness: Nearness
  /** Moves buckets into all rings, for the staged part of a strategy. */
  readonly staged: StagedWay
}

/** Sizes in bytes. */
export interface RingLimits {
  readonly limitBytes: number
  /** Null: chosen from the ring's size. */
  readonly bucketBytes: number | null
  readonly maxBucketBytes: number
  readonly chunkBytes: number
}

export interface VerifyRun {
  /** Extent of the verification, as far as the engine permits. */
  readonly level: VerificationLevel
  /** True if a staged update is recorded only so that parameters can be compared. */
  readonly record: boolean
  readonly check: ParameterCheck
}

/** Data with which the engine's worker finds this rank. */
export interface WorkerAccess {
  /** Directory of this process's sockets. */
  readonly socketDir: string
  /** Token that a worker of this run must present. */
  readonly token: string
}

/** Callbacks of an update. */
export interface UpdateEvents {
  /** Called when the ranks have exchanged who takes part, and which versions their workers serve. */
  readonly onBegin: (announcements: readonly Announcement[]) => void
  /** Reports a failure to the other ranks, once; resolves to the error to throw. */
  readonly fail: (thrown: unknown) => Promise<CkptError>
  /** Called with waits that last longer than a second. */
  readonly onWaiting: (waiting: Waiting) => void
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}
