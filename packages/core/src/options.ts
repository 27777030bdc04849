import { CkptError, VARIABLES, type Device, type Rendezvous, type Waiting } from '@ckpt/contract'
import type { Logger } from 'pino'
import { z } from 'zod'
import type { ServeOptions } from '@ckpt/p2p'
import { firstIssue } from '@ckpt/utils'

const GIB = 2 ** 30

/**
 * Configuration of `ParameterServer.create`; missing options come from the environment (RANK, WORLD_SIZE, MASTER_ADDR,
 * MASTER_PORT).
 */
export interface ParameterServerOptions {
  readonly rank?: number
  readonly worldSize?: number
  /**
   * Address where the ranks meet, `tcp://host:port`; rank 0 binds it. Or a rendezvous that was joined already (the caller then
   * closes it).
   */
  readonly rendezvous?: string | Rendezvous
  /** Secret of the run: connections between ranks are encrypted with keys derived from it, and peers without it are refused. */
  readonly token?: string
  /** Run without a secret: any process that reaches the coordinator may join (default false, or `CKPT_INSECURE=1`). */
  readonly insecure?: boolean
  /**
   * Ranks with a larger world size may join between updates, and enlarge the world for all (default false); the setting of rank
   * 0 applies.
   */
  readonly elastic?: boolean
  /** Device that holds the engine's parameters (default: the host device). The caller closes a device that it passes. */
  readonly device?: Device
  /** Keep ring and collective between updates (default false: the engine gets the memory back). */
  readonly keepAlive?: boolean
  /**
   * Hold checkpoints in memory that other ranks of this host can map (default false). Direct updates over several ranks need
   * this unless files are registered in place.
   */
  readonly shareMemory?: boolean
  /** Deadline of every wait, in milliseconds (default 120,000). */
  readonly timeoutMs?: number
  readonly heartbeatMs?: number
  readonly heartbeatTimeoutMs?: number
  /** Threads for copies and reads (default: the number of cores, at most 8). */
  readonly threads?: number
  /**
   * Options for serving what this rank holds to ranks that pull it (p2p), or false to serve nothing (default: over TCP, on the
   * address at which other ranks reach this one). Receivers pull through it as well.
   */
  readonly serve?: ServeOptions | false
  readonly logger?: Logger
  /**
   * Called with waits of this rank that last longer than a second (a socket, a URL, ranks), and again every ten seconds. The
   * logger gets the same.
   */
  readonly onWaiting?: (waiting: Waiting) => void
}

/** Variables that apply with these options: values given as options are not read from the environment. */
export function variablesRead(options: ParameterServerOptions): string[] {
  const { rendezvous, rank, worldSize, token, insecure } = options
  const joined = typeof rendezvous === 'object'
  const given: Partial<Record<(typeof VARIABLES)[number], boolean>> = {
    // Read by the metrics server.
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
  /** From `PS_MEM_FRACTION`: the fraction of the free device memory that the ring may use. */
  readonly fraction?: number
}

/** @throws CkptError `INVALID_ARGUMENT` naming a variable that is set but is not a number in range. */
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
