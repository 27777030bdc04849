import { refuseServiceLinks, type CallOptions } from '@ckpt/contract'
import { ParameterServer, type ParameterServerOptions } from '@ckpt/core'
import { metricsAddress } from './metrics/metrics-address.ts'
import { metricsOf } from './metrics/metrics-of.ts'
import { serveMetrics } from './metrics/serve-metrics.ts'

export interface ServedOptions extends ParameterServerOptions {
  /**
   * Port on which to serve this rank's metrics over HTTP (default: `CKPT_METRICS_PORT`, otherwise none): `/metrics`,
   * `/healthz`, `/readyz`, on `CKPT_METRICS_HOST` (default 127.0.0.1).
   */
  readonly metricsPort?: number
}

/**
 * Calls `ParameterServer.create`, and serves the rank's metrics until it is closed, if options or environment request it.
 *
 * @throws CkptError the errors of `ParameterServer.create`, `INVALID_ARGUMENT` naming the variable or the address that cannot
 * be listened on.
 */
export async function createParameterServer(
  { metricsPort, ...options }: ServedOptions = {},
  call: CallOptions = {},
): Promise<ParameterServer> {
  if (metricsPort === undefined) refuseServiceLinks(process.env, ['CKPT_METRICS_PORT'])
  const address = metricsAddress(metricsPort, process.env)
  const server = await ParameterServer.create(options, call)
  if (address === undefined) return server
  try {
    const http = await serveMetrics(server, address)
    metricsOf(server).endWith(() => http.close())
  } catch (error) {
    await server.close()
    throw error
  }
  return server
}
