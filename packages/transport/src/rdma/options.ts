import { CkptError } from '@ckpt/contract'
import type { RdmaConnectOptions } from '@ckpt/rdma-core-bindings'
import type { RdmaNic } from './choose.ts'

/** Options of an RDMA endpoint. */
export interface RdmaEndpointOptions {
  /** `host:port` on which peers agree with it on queue pairs (over TCP; port 0 selects a free one). */
  readonly listen: string
  /** Secret that peers have to prove; at least 16 characters. */
  readonly secret: string
  /** `host:port` under which peers reach it, if that is not `listen`; port 0 means the selected one. */
  readonly advertise?: readonly string[]
  /** Ports to use, as returned by `chooseNics` and `assignNics`. */
  readonly nics: readonly RdmaNic[]
  /** Queue pairs to each peer for every NIC (default `NCCL_IB_QPS_PER_CONNECTION`, otherwise 2). */
  readonly queuePairs?: number
  /** Maximum requests in flight on each queue pair (default 64). */
  readonly depth?: number
  /** Maximum size of one request in bytes (default 1 MiB). */
  readonly pieceBytes?: number
  /**
   * Options of queue pairs (defaults: `NCCL_IB_TIMEOUT`, `NCCL_IB_RETRY_CNT` up to 6, `NCCL_IB_TC`, `NCCL_IB_SL`, if these are
   * set).
   */
  readonly connection?: RdmaConnectOptions
}

/** {@link RdmaEndpointOptions} with all defaults. */
export interface RdmaSettings extends Required<Omit<RdmaEndpointOptions, 'advertise' | 'connection'>> {
  readonly advertise: readonly string[]
  readonly connection: Required<RdmaConnectOptions>
}

const LEAST_SECRET = 16
const MOST_RETRIES = 6

/** @throws CkptError `INVALID_ARGUMENT` naming the option or the variable. */
export function settingsOf(
  options: RdmaEndpointOptions,
  env: Readonly<Record<string, string | undefined>> = process.env,
): RdmaSettings {
  const { listen, secret, nics, advertise = [listen], depth = 64, pieceBytes = 2 ** 20 } = options
  if (secret.length < LEAST_SECRET) throw invalid('secret', `the secret must have at least ${LEAST_SECRET} characters`)
  if (nics.length === 0) throw invalid('nics', 'an RDMA endpoint needs at least one NIC')
  const queuePairs = options.queuePairs ?? fromEnv(env, 'NCCL_IB_QPS_PER_CONNECTION', 1, 128) ?? 2
  check('queuePairs', queuePairs, 1, 128)
  check('depth', depth, 1, 2 ** 15)
  check('pieceBytes', pieceBytes, 1, 2 ** 30)
  const retries = fromEnv(env, 'NCCL_IB_RETRY_CNT', 0, 7)
  const connection = {
    timeout: fromEnv(env, 'NCCL_IB_TIMEOUT', 1, 31) ?? 14,
    // Seven means "forever" to some devices, and every wait here must end.
    retries: Math.min(retries ?? MOST_RETRIES, MOST_RETRIES),
    trafficClass: fromEnv(env, 'NCCL_IB_TC', 0, 255) ?? 0,
    serviceLevel: fromEnv(env, 'NCCL_IB_SL', 0, 15) ?? 0,
    ...options.connection,
  }
  return { listen, secret, nics, advertise, queuePairs, depth, pieceBytes, connection }
}

function fromEnv(
  env: Readonly<Record<string, string | undefined>>,
  name: string,
  least: number,
  most: number,
): number | undefined {
  const text = env[name]?.trim()
  if (text === undefined || text === '') return undefined
  const value = Number(text)
  check(name, value, least, most)
  return value
}

function check(field: string, value: number, least: number, most: number): void {
  if (Number.isInteger(value) && value >= least && value <= most) return
  throw invalid(field, `${field} is ${value}, not a whole number from ${least} to ${most}`)
}

function invalid(field: string, message: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', message, { fields: { field } })
}
