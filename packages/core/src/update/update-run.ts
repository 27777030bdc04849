import type {
  CkptError,
  Device,
  EngineAdapter,
  HostMemory,
  Manifest,
  Rendezvous,
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

/** Everything one update needs, resolved. */
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
  /** Whether and how a failure of this update is recovered from; the ranks must agree in it. */
  readonly recovery: string
  /** Notes how far this attempt came. */
  readonly progress: UpdateProgress
  /** The attempt before this one, when only what is missing is to be sent. */
  readonly failed?: UpdateProgress
  readonly events: UpdateEvents
}

/** The checkpoint, and what this rank has of it. */
export interface HeldCheckpoint extends Pick<UpdateContext, 'reach' | 'joining' | 'reserve'> {
  readonly manifest: Manifest
  /** By segment index; empty where this rank holds nothing of it. */
  readonly segments: readonly HostMemory[]
}

/** What a rank keeps from one update to the next. */
export interface RankParts {
  readonly resources: UpdateResources
  readonly strategies: KeptParts
  /** Which ranks share memory. */
  readonly nearness: Nearness
  /** How buckets come into all rings, for what a strategy has staged. */
  readonly staged: StagedWay
}

/** Sizes in bytes. */
export interface RingLimits {
  readonly limitBytes: number
  /** Null: chosen from the ring. */
  readonly bucketBytes: number | null
  readonly maxBucketBytes: number
  readonly chunkBytes: number
}

export interface VerifyRun {
  /** How far the update is verified, as far as the engine lets it be. */
  readonly level: VerificationLevel
  /** True if a staged update is recorded only so that parameters can be compared. */
  readonly record: boolean
  readonly check: ParameterCheck
}

/** How the engine's worker finds this rank. */
export interface WorkerAccess {
  /** Directory of this process's sockets. */
  readonly socketDir: string
  /** What a worker of this run has to know. */
  readonly token: string
}

/** Who is told what. */
export interface UpdateEvents {
  /** The ranks have told each other who takes part, and what their workers serve. */
  readonly onBegin: (announcements: readonly Announcement[]) => void
  /** Tells the other ranks of a failure, once; resolves to the error to report. */
  readonly fail: (thrown: unknown) => Promise<CkptError>
  /** Told what is waited for longer than a second. */
  readonly onWaiting: (waiting: Waiting) => void
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}
