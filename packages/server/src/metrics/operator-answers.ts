import type { ParameterServer } from '@ckpt/core'
import { metricsOf } from './metrics-of.ts'

/** Paths that operators' tools request. */
export const OPERATOR_PATHS = ['/metrics', '/healthz', '/readyz'] as const
export type OperatorPath = (typeof OPERATOR_PATHS)[number]

export interface OperatorAnswer {
  readonly status: number
  readonly contentType: string
  readonly body: string
}

/**
 * Answers operators' tools, in the same way wherever a rank serves them: `/metrics` for Prometheus, `/healthz` (200 while the
 * process is up), `/readyz` (200 while the rank can take an update, else 503). The last two carry the rank's health as JSON.
 */
export function operatorAnswers(server: ParameterServer): (path: OperatorPath) => Promise<OperatorAnswer> {
  const metrics = metricsOf(server)
  return async (path) => {
    if (path === '/metrics') return { status: 200, contentType: metrics.contentType, body: await metrics.text() }
    const health = server.health()
    const status = path === '/healthz' || health.reasons.length === 0 ? 200 : 503
    return { status, contentType: 'application/json', body: `${JSON.stringify(health)}\n` }
  }
}
