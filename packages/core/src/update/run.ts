import type {
  CkptError,
  Device,
  EngineAdapter,
  HostMemory,
  Manifest,
  PullContext,
  Rendezvous,
  StagedStrategy,
  Strategy,
  Waiting,
} from '@ckpt/contract'
import type { DirectState } from '../direct/state.ts'
import type { Nearness } from '../near/nearness.ts'
import type { Keeper } from '../p2p/keeper.ts'
import type { ParameterCheck } from '../verify/parameter-check.ts'
import type { VerificationLevel } from '../verify/verification.ts'
import type { Announcement } from './begin.ts'
import type { PlanCache } from './plan-cache.ts'
import type { UpdateProgress } from './progress.ts'
import type { UpdateResources } from './resources.ts'

/** Everything one update needs, resolved. */
export interface UpdateRun {
  readonly rendezvous: Rendezvous
  readonly device: Device
  readonly resources: UpdateResources
  readonly plans: PlanCache
  readonly engine: EngineAdapter
  readonly strategy: Strategy
  /** What moves buckets where the strategy is direct and something is staged all the same. */
  readonly staged: StagedStrategy
  readonly direct: DirectState
  /** Which ranks share memory. */
  readonly nearness: Nearness
  readonly manifest: Manifest
  readonly segments: readonly HostMemory[]
  /** What receivers pull with, in a p2p update; `joining`: they are not ranks of the manifest. */
  readonly pull?: Omit<PullContext, 'pullOf' | 'keep'> & { readonly joining: boolean }
  /** Keeps what receivers pull. */
  readonly keeper?: Keeper
  /** How ranks that hold the checkpoint are read from. */
  readonly reach: () => Promise<Pick<PullContext, 'access' | 'endpoints' | 'checkpoint'>>
  readonly socketDir: string
  readonly token: string
  readonly version: string
  /** How far the update is verified, as far as the engine lets it be. */
  readonly verify: VerificationLevel
  /** True if a staged update is recorded only so that parameters can be compared. */
  readonly recordToVerify: boolean
  readonly check: ParameterCheck
  readonly ringLimit: number
  readonly bucketBytes: number | null
  readonly maxBucketBytes: number
  readonly chunkBytes: number
  readonly timeoutMs: number
  readonly signal: AbortSignal
  /** Whether and how a failure of this update is recovered from; the ranks must agree in it. */
  readonly recovery: string
  /** Notes how far this attempt came. */
  readonly progress: UpdateProgress
  /** The attempt before this one, when only what is missing is to be sent. */
  readonly failed?: UpdateProgress
  /** The ranks have told each other who takes part, and what their workers serve. */
  readonly onBegin: (announcements: readonly Announcement[]) => void
  /** Tells the other ranks of a failure, once; resolves to the error to report. */
  readonly fail: (thrown: unknown) => Promise<CkptError>
  /** Told what is waited for longer than a second. */
  readonly onWaiting: (waiting: Waiting) => void
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void
}
