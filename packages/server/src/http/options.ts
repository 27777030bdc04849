import type { EngineAdapter, UpdateStrategy } from '@ckpt/contract'
import type { FastifyInstance } from 'fastify'
import type { ParameterServer } from '@ckpt/core'
import type { UpdateRequest } from './schemas.ts'

/** Adds routes of its own to the API, below the same authorisation. */
export type HttpPlugin = (app: FastifyInstance, server: ParameterServer) => void | Promise<void>

/** Where the API listens, whom it lets in, and what it may read. */
export interface HttpOptions {
  /** Address to listen on (default 127.0.0.1). Another one than the loopback interface's needs `token` and `root`. */
  readonly host?: string
  /** Port to listen on (default 0: a free one). */
  readonly port?: number
  /** Unix socket to listen on instead; only the user may open it. */
  readonly socketPath?: string
  /** Bearer token that every request but the health check must carry. */
  readonly token?: string
  /** Directory that checkpoint files must lie in, links followed (default: any, where only this machine's users reach the API). */
  readonly root?: string
  /** Largest request body in bytes (default 16 MiB). */
  readonly bodyLimit?: number
  /**
   * Connections that are held at the same time (default: half of the files that the process may open, at most 1024). Where there are more,
   * connections that have not shown a right to call are ended first, the oldest before the others.
   */
  readonly maxConnections?: number
  /**
   * Hosts, or `host:port`, besides the loopback interface that `update_url` of a request may name (default: none). Whoever may use the API can
   * have this process post to them.
   */
  readonly engineHosts?: readonly string[]
  /** Directories beneath which `uds` of a request may lie (default: the directory of `socketPath`, where that is set, else none). */
  readonly engineSockets?: readonly string[]
  /** How the engine of an update is reached (default: one call of `update_url`, as checkpoint-engine makes it). `update_url` and `uds` are checked before. */
  readonly engine?: (request: UpdateRequest) => EngineAdapter
  /** What executes an update of given ranks (default: such an update is `UNSUPPORTED`). */
  readonly strategy?: (ranks: readonly number[]) => UpdateStrategy
  /** Further routes. */
  readonly plugins?: readonly HttpPlugin[]
}
