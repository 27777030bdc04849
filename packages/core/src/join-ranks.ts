import type { CallOptions, Rendezvous, Waiting } from '@ckpt/contract'
import { joinRendezvous, rendezvousOptionsFromEnv } from '@ckpt/rendezvous'
import type { ParameterServerOptions } from './options.ts'

export const DEFAULT_TIMEOUT_MS = 120_000

/** Joins the other ranks with the given options; the environment supplies missing ones. */
export function joinRanks(options: ParameterServerOptions, call: CallOptions): Promise<Rendezvous> {
  const { rank, worldSize, rendezvous, token, insecure, elastic, heartbeatMs, heartbeatTimeoutMs } = options
  const given = {
    ...(rank !== undefined && { rank }),
    ...(worldSize !== undefined && { worldSize }),
    ...(typeof rendezvous === 'string' && { address: rendezvous }),
    ...(token !== undefined && { token }),
    ...(insecure !== undefined && { insecure }),
  }
  return joinRendezvous({
    ...rendezvousOptionsFromEnv(process.env, given),
    ...(elastic !== undefined && { elastic }),
    rejoin: true,
    ...(heartbeatMs !== undefined && { heartbeatMs }),
    ...(heartbeatTimeoutMs !== undefined && { heartbeatTimeoutMs }),
    timeoutMs: call.timeoutMs ?? options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
    ...(call.signal && { signal: call.signal }),
    onWaiting: reportWaiting(options),
  })
}

/** Logs long waits of a rank, and reports them to `onWaiting`. */
export function reportWaiting({ logger, onWaiting }: ParameterServerOptions): (waiting: Waiting) => void {
  return (waiting) => {
    logger?.info(waiting, `waiting for ${waiting.what}`)
    onWaiting?.(waiting)
  }
}
