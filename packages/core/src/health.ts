import type { Rendezvous } from '@ckpt/contract'

/** A rank's health; `GET /healthz` and `GET /readyz` of `@ckpt/server` answer with it. */
export interface Health {
  readonly rank: number
  readonly worldSize: number
  readonly state: 'ready' | 'updating' | 'not ready' | 'draining' | 'closed'
  /** Reasons why it cannot accept an update; empty if it can. */
  readonly reasons: readonly string[]
  /** @deprecated Since 0.2: use `reasons`. */
  readonly hindrances: readonly string[]
  /** Ranks whose engine workers may hold parts of an update. */
  readonly dirty: readonly number[]
}

/** Describes a rank from what it does. */
export function healthOf(rank: {
  readonly rendezvous: Pick<Rendezvous, 'rank' | 'worldSize' | 'lost'>
  readonly isClosed: boolean
  readonly isDraining: boolean
  readonly isUpdating: boolean
  readonly dirty: readonly number[]
}): Health {
  const { isClosed, isDraining, isUpdating, dirty } = rank
  const { rank: index, worldSize, lost } = rank.rendezvous
  const reasons = [
    ...(isClosed ? ['closed'] : isDraining ? ['draining'] : []),
    ...(lost && !isClosed ? [`membership lost: ${lost.message}`] : []),
  ]
  const state = isClosed ? 'closed' : isDraining ? 'draining' : lost ? 'not ready' : isUpdating ? 'updating' : 'ready'
  // eslint-disable-next-line @typescript-eslint/no-deprecated -- for one minor version
  return { rank: index, worldSize, state, reasons, hindrances: reasons, dirty }
}
