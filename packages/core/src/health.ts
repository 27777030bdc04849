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
