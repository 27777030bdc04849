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
  /** What was asked for or usual but could not be measured, with the reason. */
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

/** What this machine can do at most, measured in the same run. */
export interface Ceilings {
  /** Copy between buffers too large for any cache, all cores at work. */
  readonly copyBytesPerSecond: number
  /** Warm files into memory that was written before; not measured on GPUs. */
  readonly readBytesPerSecond?: number
}

/** The GPUs, and what their host links carry when all are busy at once. */
export interface Gpus {
  readonly names: readonly string[]
  readonly versions: Readonly<Record<string, string>>
  /** All of them together. */
  readonly h2dBytesPerSecond: number
  readonly h2dEachBytesPerSecond: readonly number[]
}

export interface Run {
  readonly model: string
  /** On GPUs: whether ring and communicators are kept between updates, or all is released. */
  readonly variant?: 'kept' | 'released'
  readonly title: string
  /** What was kept of the model, in words. */
  readonly scale: string
  readonly backend: 'host' | 'cuda'
  readonly strategy: 'broadcast' | 'p2p' | 'direct'
  readonly ranks: number
  readonly bytes: number
  readonly tensors: number
  /** The first one. */
  readonly gatherMetasMs: number
  /** Later ones, nothing having changed. */
  readonly gatherMetasAgainMs?: Samples
  /** What the first update spent on making ring and communicator, and on the worker's attaching. */
  readonly firstAttachMs?: number
  readonly registerMs: number
  /** Whether each timed update had a registration of its own, as in training. */
  readonly freshRegistration: boolean
  /** Files in /dev/shm pinned where they are. */
  readonly registerInPlaceMs?: number
  /** Verified as far as `verified` says; with a registration of its own, its digests are taken in that time. */
  readonly updateMs: Samples
  readonly stages: { readonly h2dMs: number; readonly broadcastMs: number; readonly reloadMs: number; readonly idleMs: number }
  /** Steps of the median update, one after the other; the slowest rank of each. */
  readonly steps?: UpdateReport['steps']
  /** The same with verification switched off, in turns with the others. */
  readonly unverifiedMs: Samples
  /** Part of `unverifiedMs` that verification adds: on the host device the median of pairs that were measured one after the other. */
  readonly verificationCost: number
  /** Registration and update together: digests are made while a checkpoint is registered, so this is what verification costs a training step. */
  readonly stepMs?: Samples
  readonly unverifiedStepMs?: Samples
  /** Part of `unverifiedStepMs` that verification adds: median of pairs. */
  readonly stepVerificationCost?: number
  readonly peakDeviceBytes: number
  /** Device memory that is gone after all the updates of this kind. */
  readonly growthBytes?: number
  readonly peakHostBytes: number
  readonly limit: { readonly bytesPerSecond: number; readonly updateMs: number; readonly how: string }
  readonly ratioToLimit: number
  /** Each sample against the ceiling that was read right before it; absent where the ceiling was measured once. */
  readonly ratios?: Samples
  /** With `--validate`, on the host device: what processors needed for the parts of updates, right before and after each sample. */
  readonly readings?: readonly (readonly [before: ProcessorReading, after: ProcessorReading])[]
  /** How far all of the timed updates were verified; without verification where it was not to be timed. */
  readonly verified: VerificationLevel
  /** Whether every byte of the parameters was that of the files after every update: the bench's own comparison, which is not timed. */
  readonly parametersEqual: boolean
  /** Bytes of parameters. */
  readonly parameterBytes: number
  readonly digest: string
  readonly ringBytes: number
  readonly bucketBytes: number
  readonly mode: string
  /** How H2D and broadcasts were laid in time, and what that was chosen by; absent where there was nothing to choose. */
  readonly order?: NonNullable<UpdateReport['order']>
  /** What the stages of the last timed update moved, all ranks together. */
  readonly moved?: Moved
  /** Where the strategy was direct. */
  readonly direct?: DirectAccount
  /** The last timed update (on GPUs the median one), a timeline a rank; together no more than 4,000 spans. */
  readonly timelines?: readonly Timeline[]
}

/** The account of bytes of a direct update, all ranks together. */
export interface DirectAccount {
  /** What the engine workers needed; bytes that several need count for each. */
  readonly neededBytes: number
  /** The same, each byte once: what must cross host links. */
  readonly uniqueBytes: number
  /** What crossed host links, and how much of it that of the busiest rank. */
  readonly h2dBytes: number
  readonly h2dMostBytes: number
  /** What was handed on from GPU to GPU. */
  readonly forwardedBytes: number
  /** Through the ring, to every rank. */
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

/** `gatherMetas` with the full-size metadata of a model and no data. */
export interface GatherRun {
  readonly model: string
  readonly ranks: number
  readonly tensors: number
  readonly firstMs: number
  readonly unchangedMs: Samples
}

export interface RegistrationRun {
  readonly bytes: number
  /** Into the shared pool, whose memory an earlier registration left. */
  readonly registerMs: Samples
  /** Into memory that is new from the system. */
  readonly freshMs: Samples
  /** The same bytes read into warm memory by plain reads, all cores: the median of those before each registration. */
  readonly limitMs: number
  /** Part of the ceiling, read right before, that a registration reached: the median. */
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
  /** Whether every parameter of the peer's engines had the digest that it has in ours. */
  readonly parametersEqual?: boolean
}
