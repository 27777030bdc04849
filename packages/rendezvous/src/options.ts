import { createHash } from 'node:crypto'

import type { CallOptions, CkptError, Waiting } from '@ckpt/contract'

import { invalid } from './errors.ts'
import { userSecret } from './user-secret.ts'
import { isLoopback, parseAddress } from './wire/address.ts'

export const DEFAULT_HEARTBEAT_MS = 500
export const DEFAULT_HEARTBEAT_TIMEOUT_MS = 5000
export const DEFAULT_TIMEOUT_MS = 60_000

/** What a coordinator needs to know. */
export interface CoordinatorOptions {
  /** `tcp://host:port` to listen on; port 0 takes a free one, host `*` listens everywhere. */
  readonly address: string
  readonly worldSize: number
  /**
   * Secret of the run, the same on all ranks: keys are derived from it, connections are encrypted, and who does not have it gets no further
   * than a closed connection. Needed unless `insecure` is set, or the coordinator listens on the loopback interface only: there the default
   * is a secret that all processes of this machine's user have.
   */
  readonly token?: string
  /**
   * Name of the run, the same on all ranks (default: none). The coordinator's keys depend on it: ranks of runs that share a secret but not the
   * name cannot join each other's coordinator, and a guess at the secret is of use against one run alone.
   */
  readonly run?: string
  /** Do without a secret: whoever reaches the coordinator may join (default false). */
  readonly insecure?: boolean
  /**
   * Ranks may be added while nobody waits for anybody: one that joins with a larger world size makes the world larger for all (default
   * false: it is rejected). Concerns the coordinator.
   */
  readonly elastic?: boolean
  /** Time between two heartbeats in milliseconds (default 500); joining ranks follow it. */
  readonly heartbeatMs?: number
  /** A rank, or the coordinator, that is silent for this many milliseconds is lost (default 5000). */
  readonly heartbeatTimeoutMs?: number
  /** Called for each message that breaks the protocol, with a CkptError `RENDEZVOUS_PROTOCOL` that names the peer. */
  readonly onFault?: (error: CkptError) => void
}

/** How one rank joins. */
export interface JoinOptions extends CallOptions, Omit<CoordinatorOptions, 'address'> {
  readonly rank: number
  /** `tcp://host:port` of the coordinator, which rank 0 runs unless it is `standalone`. Not needed for a single rank. */
  readonly address?: string
  /** Further addresses: rank 0 listens on the first that is free, the others look for it at all of them. */
  readonly alternatives?: readonly string[]
  /** Called with what this rank has waited for longer than a second, and again every ten. */
  readonly onWaiting?: (waiting: Waiting) => void
  /** The address rank 0 listens on, where it differs from the one others connect to (default: `address`). */
  readonly bind?: string
  /** The coordinator runs elsewhere (`startCoordinator`): rank 0 connects as the others do. */
  readonly standalone?: boolean
  /** Join again, as a new incarnation, at the next call after the membership was lost; the coordinator may have been restarted (default false). */
  readonly rejoin?: boolean
  /** Deadline for joining, and default deadline of every later wait, in milliseconds (default 60000). */
  readonly timeoutMs?: number
}

/** Coordinator settings with defaults filled in. */
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

/** Join options with everything checked and defaults filled in. @throws CkptError `INVALID_ARGUMENT` naming the option. */
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
  else if (!alone) throw invalid('address', 'needed to find the coordinator')
  const address = options.address ?? 'in-process'
  const addresses = [address, ...(options.alternatives ?? [])]
  if (!alone) for (const one of addresses) parseAddress(one, 'alternatives')
  const settings = alone ? given : { ...given, token: secretFor(options, options.bind ?? address) || withoutSecret(given.run) }
  return { settings, addresses, timeoutMs }
}

/** Keeps runs that do without a secret apart; it keeps nobody out. */
function withoutSecret(run: string): string {
  return run === '' ? '' : createHash('sha256').update(run).digest('base64url')
}

/**
 * What the keys of a coordinator at `address` are derived from; empty where it does without.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming `token` when others on the network could speak to it.
 */
export function secretFor(
  { token = '', insecure = false }: Pick<CoordinatorOptions, 'token' | 'insecure'>,
  address: string,
): string {
  if (token !== '' || insecure) return token
  if (isLoopback(address)) return userSecret()
  throw invalid(
    'token',
    `anybody on the network could speak to a coordinator at ${address}: set CKPT_TOKEN or CKPT_TOKEN_FILE to the same secret on every node, or CKPT_INSECURE=1 to do without`,
  )
}

/** @throws CkptError `INVALID_ARGUMENT` unless `timeoutMs` is a positive, finite number. */
export function checkTimeout(timeoutMs: number): void {
  if (!(timeoutMs > 0 && Number.isFinite(timeoutMs)))
    throw invalid('timeoutMs', `${timeoutMs} is not a time; every wait has a deadline`)
}
