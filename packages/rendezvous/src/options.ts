import { createHash } from 'node:crypto'

import type { CallOptions, CkptError, Waiting } from '@ckpt/contract'

import { invalid } from './errors.ts'
import { userSecret } from './user-secret.ts'
import { isLoopback, parseAddress } from './wire/address.ts'

export const DEFAULT_HEARTBEAT_MS = 500
export const DEFAULT_HEARTBEAT_TIMEOUT_MS = 5000
export const DEFAULT_TIMEOUT_MS = 60_000

/** Options of a coordinator. */
export interface CoordinatorOptions {
  /** `tcp://host:port` to listen on; port 0 selects a free one, host `*` listens everywhere. */
  readonly address: string
  readonly worldSize: number
  /**
   * Secret of the run, the same on all ranks: keys are derived from it, connections are encrypted, and a peer without it only
   * gets a closed connection. Required unless `insecure` is set, or the coordinator listens only on the loopback interface:
   * there the default is a secret of this machine's user, which all of that user's processes can read.
   */
  readonly token?: string
  /**
   * Name of the run, the same on all ranks (default: none). The coordinator's keys depend on it: ranks of runs that share a
   * secret but not the name cannot join each other's coordinator, and a guess at the secret helps against only one run.
   */
  readonly run?: string
  /** Run without a secret: any process that reaches the coordinator may join (default false). */
  readonly insecure?: boolean
  /**
   * Ranks may be added while no rank waits for another: a rank that joins with a larger world size enlarges the world for all
   * (default false: it is rejected). For the coordinator.
   */
  readonly elastic?: boolean
  /** Time between two heartbeats in milliseconds (default 500); joining ranks adopt it. */
  readonly heartbeatMs?: number
  /** Silence in milliseconds after which a rank, or the coordinator, is lost (default 5000). */
  readonly heartbeatTimeoutMs?: number
  /** Called for each message that violates the protocol, with a CkptError `RENDEZVOUS_PROTOCOL` that names the peer. */
  readonly onFault?: (error: CkptError) => void
}

/** Options for joining as one rank. */
export interface JoinOptions extends CallOptions, Omit<CoordinatorOptions, 'address'> {
  readonly rank: number
  /** `tcp://host:port` of the coordinator, which rank 0 runs unless it is `standalone`. Not needed for a single rank. */
  readonly address?: string
  /** Further addresses: rank 0 listens on the first free one, the others look for it at all of them. */
  readonly alternatives?: readonly string[]
  /** Called with waits of this rank that last longer than a second, and again every ten seconds. */
  readonly onWaiting?: (waiting: Waiting) => void
  /** Address rank 0 listens on, if it differs from the one others connect to (default: `address`). */
  readonly bind?: string
  /** The coordinator runs elsewhere (`startCoordinator`): rank 0 connects like the others. */
  readonly standalone?: boolean
  /** Join again, as a new incarnation, at the next call after the membership was lost; the coordinator may have been restarted (default false). */
  readonly rejoin?: boolean
  /** Deadline for joining, and default deadline of every later wait, in milliseconds (default 60000). */
  readonly timeoutMs?: number
}

/** Coordinator settings with defaults. */
export interface Settings {
  readonly worldSize: number
  readonly token: string
  readonly run: string
  readonly elastic: boolean
  readonly heartbeatMs: number
  readonly heartbeatTimeoutMs: number
  readonly onFault: (error: CkptError) => void
}

/** @throws CkptError `INVALID_ARGUMENT` naming the option. */
export function settingsOf(options: Omit<CoordinatorOptions, 'address'>): Settings {
  const {
    worldSize,
    token = '',
    run = '',
    elastic = false,
    heartbeatMs = DEFAULT_HEARTBEAT_MS,
    onFault = () => undefined,
  } = options
  const { heartbeatTimeoutMs = Math.max(DEFAULT_HEARTBEAT_TIMEOUT_MS, 3 * heartbeatMs) } = options
  if (!Number.isSafeInteger(worldSize) || worldSize < 1) throw invalid('worldSize', `${worldSize} is not a number of ranks`)
  if (!(heartbeatMs >= 1 && Number.isFinite(heartbeatMs))) throw invalid('heartbeatMs', `${heartbeatMs} is not a time`)
  if (!(heartbeatTimeoutMs >= 2 * heartbeatMs && Number.isFinite(heartbeatTimeoutMs))) {
    throw invalid('heartbeatTimeoutMs', `${heartbeatTimeoutMs} is not at least twice heartbeatMs (${heartbeatMs})`)
  }
  return { worldSize, token, run, elastic, heartbeatMs, heartbeatTimeoutMs, onFault }
}

/** Returns checked join options with defaults. @throws CkptError `INVALID_ARGUMENT` naming the option. */
export function checkJoinOptions(options: JoinOptions): {
  settings: Settings
  /** At least one. */
  addresses: readonly string[]
  timeoutMs: number
} {
  const given = settingsOf(options)
  const { rank, worldSize, timeoutMs = DEFAULT_TIMEOUT_MS } = options
  if (!Number.isSafeInteger(rank) || rank < 0 || rank >= worldSize) {
    throw invalid('rank', `${rank} is not a rank of a world of ${worldSize}`)
  }
  checkTimeout(timeoutMs)
  const alone = worldSize === 1 && !options.standalone && !given.elastic
  if (options.address !== undefined) parseAddress(options.address, 'address')
  else if (!alone) throw invalid('address', 'missing; it is needed to find the coordinator')
  const address = options.address ?? 'in-process'
  const addresses = [address, ...(options.alternatives ?? [])]
  if (!alone) for (const one of addresses) parseAddress(one, 'alternatives')
  const settings = alone ? given : { ...given, token: secretFor(options, options.bind ?? address) || withoutSecret(given.run) }
  return { settings, addresses, timeoutMs }
}

/** Separates runs without a secret; it excludes no attacker. */
function withoutSecret(run: string): string {
  return run === '' ? '' : createHash('sha256').update(run).digest('base64url')
}

/**
 * Returns the secret from which the keys of a coordinator at `address` are derived; empty without a secret.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming `token` if others on the network could connect to it.
 */
export function secretFor(
  { token = '', insecure = false }: Pick<CoordinatorOptions, 'token' | 'insecure'>,
  address: string,
): string {
  if (token !== '' || insecure) return token
  if (isLoopback(address)) return userSecret()
  throw invalid(
    'token',
    `anyone on the network could connect to a coordinator at ${address}: set CKPT_TOKEN or CKPT_TOKEN_FILE to the same secret on every node, or CKPT_INSECURE=1 to run without a secret`,
  )
}

/** @throws CkptError `INVALID_ARGUMENT` unless `timeoutMs` is a positive, finite number. */
export function checkTimeout(timeoutMs: number): void {
  if (!(timeoutMs > 0 && Number.isFinite(timeoutMs)))
    throw invalid('timeoutMs', `${timeoutMs} is not a time; every wait has a deadline`)
}
