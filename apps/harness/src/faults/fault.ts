import type { ErrorCode } from '@ckpt/contract'
import type { Random } from '@ckpt/testing'
import type { FaultCluster, StrategyName } from './fault-cluster.ts'

/**
 * Where a fault happens. The points of an update are in the order in which it reaches them: `begin` … `broadcast` are held in the rank
 * (see cluster/hold.ts), `attach`, `reload`, `release` and `commit` in its engine worker, before the message of that name is handled
 * (`reload` stands for `bucket`, or, where the update is direct, for `direct`). `any` is a random moment. `register` and `gather` are calls of their own.
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

/** What a fault may use. */
export interface FaultContext {
  readonly cluster: FaultCluster
  readonly victim: number
  readonly point: Point
  /** How the update moves its bytes. */
  readonly strategy: StrategyName
  readonly random: Random
}

export type Undo = (() => Promise<void> | void) | undefined

/** Something that goes wrong with one rank, its engine worker or its connection while all ranks make the same call. */
export interface Fault {
  readonly name: string
  readonly points: readonly Point[]
  /** Updates that it can hit (default: all). */
  readonly strategies?: readonly StrategyName[]
  /** Whom it may hit: rank 0, which runs the coordinator, the others, or any of them. */
  readonly victims: 'coordinator' | 'member' | 'any'
  readonly expect: 'fails' | 'succeeds' | 'either'
  /** One of these stands in the error, or among its causes, on every survivor. */
  readonly codes: readonly ErrorCode[]
  /** These too, where ranks read from each other. */
  readonly pullCodes?: readonly ErrorCode[]
  /** How soon every survivor knows: within the heartbeat window and a second, or within the call's deadline and a second. */
  readonly within: 'window' | 'deadline'
  /** Whose own call says nothing about the others' (it is dead, or was away). */
  readonly spares?: 'victim'
  /** Who has to join again afterwards (besides ranks whose process ended). */
  readonly lost: 'nobody' | 'victim' | 'everybody'
  /** What the error says of the cause, where that is not the victim's rank. */
  readonly names?: RegExp
  /** Done long before the call, and undone long after. */
  readonly prepare?: (context: FaultContext) => Promise<Undo>
  /** Arranges that it happens in the call that follows; such a fault needs no `inject`. */
  readonly arm?: (context: FaultContext) => Promise<void>
  /** Makes it happen, at the point. What is returned undoes it, before the cluster is made whole again. */
  readonly inject?: (context: FaultContext) => Promise<Undo>
  /** When it is undone: this many milliseconds later, when all survivors' calls have ended, or when all calls have (default). */
  readonly undo?: 'survivors' | 'all' | ((context: FaultContext) => number)
}
