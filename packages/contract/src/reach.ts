import type { HostMemory } from './host.ts'
import type { EndpointDescriptor, OneSided, OneSidedPeer, RegionDescriptor } from './one-sided.ts'
import type { MeasuredWire } from './update-report.ts'

/** An endpoint through which one rank's segments of a checkpoint can be read. Plain JSON. */
export interface AccessPoint {
  readonly endpoint: EndpointDescriptor
  /** Regions by segment index. Their keys belong to one registration of the checkpoint; a later one has different keys. */
  readonly regions: readonly RegionDescriptor[]
  /** Number of that registration among all that the endpoint has served, from 1; absent if it was not reported. */
  readonly generation?: number
  /** Secret that the endpoint requires a proof of. */
  readonly secret: string
}

/** Access for other ranks to what one rank holds of a checkpoint. */
export interface RankAccess {
  readonly rank: number
  /** Access points, best first; a reader takes the first of a kind that it supports. Empty if the rank serves nothing. */
  readonly points: readonly AccessPoint[]
}

/** Access to the ranks of a manifest. */
export interface Reach {
  readonly access: readonly RankAccess[]
  /** This rank's endpoints, to connect from. */
  readonly endpoints: readonly OneSided[]
  /** @throws CkptError as for `reachRank` of `@ckpt/p2p`. */
  connect(rank: number, options: { readonly timeoutMs: number; readonly signal: AbortSignal }): Promise<ReachedRank>
}

/** Access of an update's ranks to each other while it runs. */
export interface SpreadAccess {
  /** Participating ranks by shared memory, in the order of their first ranks. */
  readonly groups: readonly (readonly number[])[]
  /** Exchanges one value of each participating rank, in the order of the ranks. */
  gather<T>(key: string, value: T): Promise<T[]>
  /** Opens memory to the other ranks, by all of this rank's endpoints. */
  open(memory: HostMemory): Promise<OpenedMemory>
  /** @throws CkptError as {@link Reach.connect}. */
  connect(access: RankAccess, options: { readonly timeoutMs: number; readonly signal: AbortSignal }): Promise<ReachedRank>
}

/** Memory that other ranks can read. */
export interface OpenedMemory {
  readonly points: readonly AccessPoint[]
  /** Closes it; resolves when nothing of it is being read any more. */
  close(): Promise<void>
}

/** A connected rank, and the access data for its memory. */
export interface ReachedRank {
  readonly peer: OneSidedPeer
  readonly point: AccessPoint
  /** Rates by which this wire was chosen; absent if there was only one. */
  readonly measured?: readonly MeasuredWire[]
}
