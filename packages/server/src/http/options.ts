import type { EngineAdapter, UpdateStrategy } from '@ckpt/contract'
import type { FastifyInstance } from 'fastify'
import type { ParameterServer } from '@ckpt/core'
import type { UpdateRequest } from './schemas.ts'
import type { TlsFiles } from './tls-files.ts'

/** Adds further routes to the API, with the same authorisation. */
export type HttpPlugin = (app: FastifyInstance, server: ParameterServer) => void | Promise<void>

/** Address of the API, permitted callers, and readable files. */
export interface HttpOptions {
  /** Address to listen on (default 127.0.0.1). Any address other than the loopback interface's needs `token` and `root`. */
  readonly host?: string
  /** Port to listen on (default 0: a free one). */
  readonly port?: number
  /** Unix socket to listen on instead; only the user may open it. */
  readonly socketPath?: string
  /**
   * Certificate and key for HTTPS (default: none, plain HTTP). Files that are replaced are read again within ten seconds; open
   * connections keep theirs. Not with `socketPath`.
   */
  readonly tls?: TlsFiles
  /** Bearer token that every request except the health check must carry. */
  readonly token?: string
  /**
   * Directory that must contain all checkpoint files, with links resolved (default: any, if only this machine's users can reach
   * the API).
   */
  readonly root?: string
  /** Largest request body in bytes (default 16 MiB). */
  readonly bodyLimit?: number
  /**
   * Maximum number of connections (default: half of the files that the process may open, at most 1024). Beyond it, connections
   * that have not shown a right to call are ended first, the oldest before the others.
   */
  readonly maxConnections?: number
  /**
   * Hosts, or `host:port`, in addition to the loopback interface that `update_url` of a request may name (default: none). A
   * user of the API can make this process post to them.
   */
  readonly engineHosts?: readonly string[]
  /** Directories that may contain the `uds` of a request (default: the directory of `socketPath`, if set, otherwise none). */
  readonly engineSockets?: readonly string[]
  /**
   * Returns the engine of an update (default: one call of `update_url`, like checkpoint-engine). `update_url` and `uds` are
   * checked before.
   */
  readonly engine?: (request: UpdateRequest) => EngineAdapter
  /** Returns the strategy for an update of given ranks (default: such an update is `UNSUPPORTED`). */
  readonly strategy?: (ranks: readonly number[]) => UpdateStrategy
  /** Further routes. */
  readonly plugins?: readonly HttpPlugin[]
}
