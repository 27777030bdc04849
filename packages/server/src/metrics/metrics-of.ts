import type { ParameterServer } from '@ckpt/core'
import { UpdateMetrics } from './update-metrics.ts'

/** A rank's metrics in the text format of Prometheus; docs/operations.md explains them. */
export interface RankMetrics {
  readonly contentType: string
  text(): Promise<string>
}

const known = new WeakMap<ParameterServer, UpdateMetrics>()

/** Returns the metrics of a rank, counted from the first call on: all servers of them return the same. */
export function metricsOf(server: ParameterServer): UpdateMetrics {
  let metrics = known.get(server)
  if (metrics === undefined) {
    metrics = new UpdateMetrics({
      rank: server.rank,
      worldSize: () => server.worldSize,
      engines: () => server.engineStates(),
      reasons: () => server.health().reasons,
    })
    known.set(server, metrics)
    server.observe(metrics)
  }
  return metrics
}
