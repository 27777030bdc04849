import { CkptError, VARIABLES, type Device, type Rendezvous, type Waiting } from '@ckpt/contract'
import type { Logger } from 'pino'
import { z } from 'zod'
import type { ServeOptions } from '@ckpt/p2p'
import { firstIssue } from '@ckpt/utils'

const GIB = 2 ** 30

/** How `ParameterServer.create` is configured; what is absent comes from the environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT). */
export interface ParameterServerOptions {
  readonly rank?: number
  readonly worldSize?: number
  /** Where the ranks meet, `tcp://host:port`; rank 0 binds it. Or a rendezvous that was joined already (it is then the caller's to close). */
  readonly rendezvous?: string | Rendezvous
  /** Secret of the run: connections between ranks are encrypted with keys derived from it, and who does not have it is turned away. */
  readonly token?: string
  /** Do without a secret: whoever reaches the coordinator may join (default false, or `CKPT_INSECURE=1`). */
  readonly insecure?: boolean
  /** Ranks with a larger world size may join between updates, and make the world larger for all (default false); rank 0's counts. */
  readonly elastic?: boolean
  /** Where the engine's parameters live (default: the host device). A device passed in is the caller's to close. */
  readonly device?: Device
  /** Keep ring and collective between updates (default false: the engine gets its memory back). */
  readonly keepAlive?: boolean
  /**
   * Hold checkpoints in memory that other ranks of this host can map, as direct updates over several ranks need it unless files are
   * registered in place (default false).
   */
  readonly shareMemory?: boolean
  /** Deadline of every wait, in milliseconds (default 120,000). */
  readonly timeoutMs?: number
  readonly heartbeatMs?: number
  readonly heartbeatTimeoutMs?: number
  /** Threads for copies and reads (default: the number of cores, at most 8). */
  readonly threads?: number
  /**
   * How this rank serves what it holds to ranks that pull it (p2p), or false to serve nothing (default: over TCP, on the address that
   * the other ranks are reached from). Receivers pull through it as well.
   */
  readonly serve?: ServeOptions | false
  readonly logger?: Logger
  /**
   * Called with what this rank has waited for longer than a second (a socket, a URL, ranks), and again every ten seconds. The logger gets the
   * same.
   */
  readonly onWaiting?: (waiting: Waiting) => void
}

/** Variables that matter beside these options: what is given as an option is not read from the environment. */
export function variablesRead(options: ParameterServerOptions): string[] {
  const { rendezvous, rank, worldSize, token, insecure } = options
  const joined = typeof rendezvous === 'object'
  const given: Partial<Record<(typeof VARIABLES)[number], boolean>> = {
    // Read by what serves numbers.
    CKPT_METRICS_PORT: true,
    MASTER_ADDR: rendezvous !== undefined,
    MASTER_PORT: rendezvous !== undefined,
    RANK: joined || rank !== undefined,
    WORLD_SIZE: joined || worldSize !== undefined,
    CKPT_TOKEN: joined || token !== undefined || insecure === true,
  }
  return VARIABLES.filter((name) => !given[name])
}

const positive = z.coerce.number().positive()
const environmentSchema = z.object({
  PS_MAX_BUCKET_SIZE_GB: positive.optional(),
  PS_MEM_FRACTION: positive.max(1).optional(),
})

/** Limits on ring and buckets from the environment, in bytes; the names are checkpoint-engine's. */
export interface MemoryLimits {
  /** From `PS_MAX_BUCKET_SIZE_GB`. */
  readonly bucketBytes?: number
  /** From `PS_MEM_FRACTION`: the part of the free device memory that the ring may take. */
  readonly fraction?: number
}

/** @throws CkptError `INVALID_ARGUMENT` naming the variable that is present but not a number in range. */
export function memoryLimits(environment: NodeJS.ProcessEnv): MemoryLimits {
  const parsed = environmentSchema.safeParse(environment)
  if (!parsed.success) {
    const { field, message } = firstIssue(parsed.error)
    throw new CkptError('INVALID_ARGUMENT', `${field}=${environment[field]}: ${message}`, { fields: { field } })
  }
  const { PS_MAX_BUCKET_SIZE_GB: gigabytes, PS_MEM_FRACTION: fraction } = parsed.data
  return {
    ...(gigabytes !== undefined && { bucketBytes: Math.floor(gigabytes * GIB) }),
    ...(fraction !== undefined && { fraction }),
  }
}
