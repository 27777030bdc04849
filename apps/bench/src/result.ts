import type { Timeline, UpdateReport, VerificationLevel } from '@ckpt/core'
import type { ProcessorReading } from '@ckpt/planner'
import type { Samples } from './statistics.ts'

/** The bench's JSON: schema 2. Times in milliseconds, sizes in bytes, rates in bytes per second. */
export interface BenchResult {
  readonly schema: 2
  readonly startedAt: string
  readonly machine: Machine
  readonly ceilings: Ceilings
  readonly gpus?: Gpus
  readonly runs: readonly Run[]
  readonly gatherMetas?: GatherRun
  readonly registration?: RegistrationRun
  readonly peers: readonly PeerRun[]
  /** Measurements that were requested, or are usual, but could not be made, with the reason. */
  readonly skipped: readonly Skipped[]
}

export interface Skipped {
  readonly what: string
  readonly reason: string
}

export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memoryBytes: number
  readonly os: string
  readonly node: string
}

/** Maximum rates of this machine, measured in the same run. */
export interface Ceilings {
  /** Copy between buffers too large for any cache, on all cores. */
  readonly copyBytesPerSecond: number
  /** Read of warm files into memory that was written before; not measured on GPUs. */
  readonly readBytesPerSecond?: number
}

/** GPUs, and the rate of their host links when all are busy at once. */
export interface Gpus {
  readonly names: readonly string[]
  readonly versions: Readonly<Record<string, string>>
  /** Rate of all of them together. */
  readonly h2dBytesPerSecond: number
  readonly h2dEachBytesPerSecond: readonly number[]
}

/** Updates of one checkpoint with one strategy. */
export type Run = ReferenceRun | EngineRun

/** Fields of every run. */
interface RunFigures {
  readonly model: string
  readonly title: string
  /** Part of the model that was kept, as text. */
  readonly scale: string
  readonly backend: 'host' | 'cuda'
  readonly ranks: number
  readonly bytes: number
  readonly tensors: number
  readonly registerMs: number
  readonly gatherMetasMs: number
  /** True if each timed update had its own registration, as in training. */
  readonly freshRegistration: boolean
  /** Verified to the level in `verified`; with its own registration, the time includes its digests. */
  readonly updateMs: Samples
  readonly stages: { readonly h2dMs: number; readonly broadcastMs: number; readonly reloadMs: number; readonly idleMs: number }
  /** Steps of the median update, one after the other; the slowest rank of each. */
  readonly steps?: UpdateReport['steps']
  /** Registration and update together, in a real engine gatherMetas too: the time that a training step waits. */
  readonly stepMs?: Samples
  readonly peakDeviceBytes: number
  readonly peakHostBytes: number
  readonly limit: { readonly bytesPerSecond: number; readonly updateMs: number; readonly how: string }
  readonly ratioToLimit: number
  /** Lowest verification level of the timed updates; `none` if verification was not timed. */
  readonly verified: VerificationLevel
  readonly digest: string
}

/** Updates of the reference engine, whose parameters can be compared byte by byte. */
export interface ReferenceRun extends RunFigures {
  /** Absent in results that are older than runs of real engines. */
  readonly engine?: 'reference'
  /** On GPUs: `kept` if ring and communicators are kept between updates, `released` if all is released. */
  readonly variant?: 'kept' | 'released'
  readonly strategy: 'broadcast' | 'p2p' | 'direct'
  /** Times of later ones, with unchanged metas. */
  readonly gatherMetasAgainMs?: Samples
  /** Time of the first update for creating ring and communicator, and for the worker's attach. */
  readonly firstAttachMs?: number
  /** Time of pinning files in /dev/shm in place. */
  readonly registerInPlaceMs?: number
  /** The same with verification disabled, alternating with the others. */
  readonly unverifiedMs: Samples
  /**
   * Fraction of `unverifiedMs` that verification adds: on the host device the median of pairs that were measured one after the
   * other.
   */
  readonly verificationCost: number
  readonly unverifiedStepMs?: Samples
  /** Fraction of `unverifiedStepMs` that verification adds: median of pairs. */
  readonly stepVerificationCost?: number
  /** Device memory that is missing after all updates of this kind. */
  readonly growthBytes?: number
  /** Ratio of each sample to the ceiling measured right before it; absent if the ceiling was measured once. */
  readonly ratios?: Samples
  /** With `--validate`, on the host device: processor time for the parts of updates, right before and after each sample. */
  readonly readings?: readonly (readonly [before: ProcessorReading, after: ProcessorReading])[]
  /**
   * True if every byte of the parameters equalled the files after every update: the bench's own comparison, which is not timed.
   */
  readonly parametersEqual: boolean
  /** Bytes of parameters. */
  readonly parameterBytes: number
  readonly ringBytes: number
  readonly bucketBytes: number
  readonly mode: string
  /** Order in time of H2D and broadcasts, and the reason for the choice; absent if there was no choice. */
  readonly order?: NonNullable<UpdateReport['order']>
  /** Bytes that the stages of the last timed update moved, over all ranks. */
  readonly moved?: Moved
  /** Set if the strategy was direct. */
  readonly direct?: DirectAccount
  /** Last timed update (on GPUs the median one), a timeline per rank; together at most 4,000 spans. */
  readonly timelines?: readonly Timeline[]
}

/** Updates of a real inference engine, between two checkpoints of the same shape in turns. */
export interface EngineRun extends RunFigures {
  readonly engine: 'vllm'
  readonly engineVersion: string
  /** `online-…` if the engine quantizes what the checkpoint does not. */
  readonly quantization: 'none' | 'fp8-block' | `online-${string}`
  /** Strategy that was requested; `strategy` is the one that the median update used. */
  readonly requested: EngineStrategy
  readonly strategy: string
  readonly source: 'files'
  /** The first update of the new engine; absent for strategies measured after another one. */
  readonly firstUpdateMs?: number
  /** `gatherMetas` before it, which also prepares updates of the engine. */
  readonly firstGatherMetasMs?: number
  /** Effect on requests, in updates during which a client streamed tokens; they are not samples of `updateMs`. */
  readonly pause?: Pause
  /** How the bytes of the median update reached the parameters; absent if the report does not tell. */
  readonly how?: HowBytes
  /** Reason why the median update was not direct. */
  readonly fallback?: string
  /** True if, after every update, greedy answers equalled those of a server that loaded the checkpoint from disk. */
  readonly answersEqual: boolean
  /** Every update in order, the first included. */
  readonly updates: readonly EngineUpdate[]
}

/** Strategies that the bench of a real engine can request. */
export type EngineStrategy = 'auto' | 'broadcast'

/** Bytes of the checkpoint by the way that they took; direct bytes count once, however many workers needed them. */
export interface HowBytes {
  /** Copied into parameters from where they were registered. */
  readonly direct: number
  /** Through the ring, copied as recorded. */
  readonly replayed: number
  /** Through the ring and the engine's own loader. */
  readonly staged: number
  /** Part of a direct update that went through the ring and the engine's own loader. */
  readonly opaque: number
}

export interface Pause {
  /** Median over updates of the longest time between two tokens of a stream, in milliseconds. */
  readonly longestTokenGapMs: number
  /** Longest gap of each update. */
  readonly gaps: readonly number[]
  /** Time of the same updates. */
  readonly updateMs: Samples
}

/** One update of a real engine; times of the slowest rank in milliseconds. */
export interface EngineUpdate {
  readonly checkpoint: 'A' | 'B'
  /** The first one with the strategy, a sample of `updateMs`, or one during which a client streamed tokens. */
  readonly kind: 'first' | 'timed' | 'streamed'
  readonly strategy: string
  /** The report's own description of how bytes moved, and why not directly. */
  readonly how: string
  /** Unregistering the earlier checkpoint and registering this one, with digests. */
  readonly registerMs: number
  readonly gatherMetasMs: number
  readonly updateMs: number
  readonly steps: UpdateReport['steps']
  readonly stages: UpdateReport['stages']
  readonly verified: VerificationLevel
  readonly answersEqual: boolean
  /** Set if a client streamed tokens during the update. */
  readonly longestTokenGapMs?: number
}

/** Byte counts of a direct update, over all ranks. */
export interface DirectAccount {
  /** Bytes that the engine workers needed; bytes that several need count for each. */
  readonly neededBytes: number
  /** The same, with each byte counted once: the bytes that must cross host links. */
  readonly uniqueBytes: number
  /** Bytes that crossed host links, and those of the busiest rank. */
  readonly h2dBytes: number
  readonly h2dMostBytes: number
  /** Bytes forwarded from GPU to GPU. */
  readonly forwardedBytes: number
  /** Bytes through the ring, to every rank. */
  readonly opaqueBytes: number
  /** Name and reason of the first ones. */
  readonly opaqueTensors: readonly string[]
  readonly routes: number
  readonly copies: number
  readonly how: string
}

/** Bytes that each stage moved. */
export interface Moved {
  readonly h2dBytes: number
  readonly broadcastBytes: number
  /** Bytes of the engine's parameters, all of which were written. */
  readonly reloadBytes: number
}

/** `gatherMetas` with the full-size metadata of a model, without data. */
export interface GatherRun {
  readonly model: string
  readonly ranks: number
  readonly tensors: number
  readonly firstMs: number
  readonly unchangedMs: Samples
}

export interface RegistrationRun {
  readonly bytes: number
  /** Times into the shared pool, with memory of an earlier registration. */
  readonly registerMs: Samples
  /** Times into memory that is new from the system. */
  readonly freshMs: Samples
  /** Time of plain reads of the same bytes into warm memory, on all cores: the median of those before each registration. */
  readonly limitMs: number
  /** Fraction of the ceiling, measured right before, that a registration reached: the median. */
  readonly ofCeiling: number
  readonly freshOfCeiling: number
}

export interface PeerRun {
  readonly peer: string
  readonly version: string
  readonly what: string
  readonly model: string
  readonly ranks: number
  readonly oursMs: Samples
  readonly peerMs: Samples
  /** Peer's median over ours. */
  readonly ratio: number
  /** Peer's median over the limit of the run. */
  readonly ratioToLimit?: number
  readonly peakDeviceBytes?: number
  /** True if every parameter of the peer's engines had the same digest as in ours. */
  readonly parametersEqual?: boolean
  /** `vllm` if both systems updated the same server, in turns; absent for the reference engine. */
  readonly engine?: 'vllm'
  /** True if each of the peer's updates had its own registration. */
  readonly freshRegistration?: boolean
  /** True if the server's answers were right after each of the peer's updates. */
  readonly answersEqual?: boolean
}

/** Returns the runs of the reference engine. */
export function referenceRuns({ runs }: Pick<BenchResult, 'runs'>): ReferenceRun[] {
  return runs.filter((run) => run.engine !== 'vllm')
}

/** Returns the runs of real engines. */
export function engineRuns({ runs }: Pick<BenchResult, 'runs'>): EngineRun[] {
  return runs.filter((run) => run.engine === 'vllm')
}

/** Returns true if every comparison of the run found what was expected. */
export function isRight(run: Run): boolean {
  return run.engine === 'vllm' ? run.answersEqual : run.parametersEqual
}
