/**
 * A rank over HTTP: the API with checkpoint-engine's routes and an interface for others, the live page, and metrics for
 * Prometheus.
 *
 * @packageDocumentation
 */
export { createParameterServer, type ServedOptions } from './create.ts'
export { collectiveCall } from './http/collective-call.ts'
export type { TlsFiles } from './http/tls-files.ts'
export { live, liveWith, type LiveOptions } from './http/live/plugin.ts'
export type { HttpOptions, HttpPlugin } from './http/options.ts'
export type { UpdateRequest } from './http/schemas.ts'
export { serveHttp, type HttpServer } from './http/serve.ts'
export { metricsOf, type RankMetrics } from './metrics/metrics-of.ts'
export { serveMetrics, type MetricsServerOptions } from './metrics/serve-metrics.ts'
