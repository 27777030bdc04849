import type { ErrorCode } from '@ckpt/contract'
import type { Random } from '@ckpt/testing'
import type { FaultCluster, StrategyName } from './fault-cluster.ts'

/**
 * Point at which a fault happens. The points of an update are in the order in which it reaches them: `begin` … `broadcast` are
 * held in the rank (see cluster/hold.ts), `attach`, `reload`, `release` and `commit` in its engine worker, before the message
 * of that name is handled (`reload` corresponds to `bucket` or, if the update is direct, to `direct`). `any` is a random
 * moment. `register` and `gather` are separate calls.
 */
export const POINTS = [
  'register',
  'gather',
  'begin',
  'plan',
  'attach',
  'h2d',
  'broadcast',
  'reload',
  'release',
  'commit',
  'any',
] as const
export type Point = (typeof POINTS)[number]

/** Tools available to a fault. */
export interface FaultContext {
  readonly cluster: FaultCluster
  readonly victim: number
  readonly point: Point
  /** Strategy of the update. */
  readonly strategy: StrategyName
  readonly random: Random
}

export type Undo = (() => Promise<void> | void) | undefined

/** A failure of one rank, its engine worker or its connection while all ranks make the same call. */
export interface Fault {
  readonly name: string
  readonly points: readonly Point[]
  /** Strategies of updates that it can affect (default: all). */
  readonly strategies?: readonly StrategyName[]
  /** Possible victims: rank 0, which runs the coordinator, the others, or any of them. */
  readonly victims: 'coordinator' | 'member' | 'any'
  readonly expect: 'fails' | 'succeeds' | 'either'
  /** One of these codes is in the error, or among its causes, on every survivor. */
  readonly codes: readonly ErrorCode[]
  /** Additional codes if ranks read from each other. */
  readonly pullCodes?: readonly ErrorCode[]
  /** Time until every survivor knows: within the heartbeat window and a second, or within the call's deadline and a second. */
  readonly within: 'window' | 'deadline'
  /** Rank whose own call proves nothing about the others' (it is dead, or was away). */
  readonly spares?: 'victim'
  /** Ranks that have to join again afterwards (besides ranks whose process ended). */
  readonly lost: 'nobody' | 'victim' | 'everybody'
  /** Text in the error about the cause, if it is not the victim's rank. */
  readonly names?: RegExp
  /** Done long before the call, and undone long after. */
  readonly prepare?: (context: FaultContext) => Promise<Undo>
  /** Sets up the fault for the following call; such a fault needs no `inject`. */
  readonly arm?: (context: FaultContext) => Promise<void>
  /** Causes the fault, at the point. The returned function undoes it, before the cluster is repaired. */
  readonly inject?: (context: FaultContext) => Promise<Undo>
  /** Time of undoing: this many milliseconds later, when all survivors' calls have ended, or when all calls have (default). */
  readonly undo?: 'survivors' | 'all' | ((context: FaultContext) => number)
}
