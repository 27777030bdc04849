import type { CkptError } from '@ckpt/contract'
import type { WorkerStatus } from './engine-states.ts'

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

/** Returns the health of a rank. */
export function healthOf(
  server: { readonly rank: number; readonly worldSize: number; engineStates(): WorkerStatus[] },
  facts: {
    readonly phase: 'open' | 'draining' | 'closed'
    /** Reason why it is no longer a member of its world. */
    readonly lost: CkptError | undefined
    readonly updating: boolean
  },
): Health {
  const { rank, worldSize } = server
  const { phase, lost, updating } = facts
  const dirty = server.engineStates().flatMap((worker) => (worker.dirty ? worker.rank : []))
  const reasons = [
    ...(phase === 'open' ? [] : [phase]),
    ...(lost && phase !== 'closed' ? [`membership lost: ${lost.message}`] : []),
  ]
  const open = lost ? 'not ready' : updating ? 'updating' : 'ready'
  // eslint-disable-next-line @typescript-eslint/no-deprecated -- for one minor version
  return { rank, worldSize, state: phase === 'open' ? open : phase, reasons, hindrances: reasons, dirty }
}
