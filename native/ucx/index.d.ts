/**
 * One-sided READ and WRITE over UCX (libucp, opened at run time), with a thread of its own for each worker.
 *
 * Errors are `Error`s with a `code`: `ADDON_UNAVAILABLE` (not built, built without UCX's headers, or no UCX here),
 * `INVALID_ARGUMENT`, `INVALID_STATE` (closed), `UNSUPPORTED` (no transport leads to the peer), `PEER_LOST`, `ABORTED`,
 * `NATIVE_FAILURE` with what UCX says.
 *
 * UCX has no protection of its own. It ends the process at an address or a key that it did not make, and whoever reaches one of
 * its ports can read and write the process's memory. Exchange addresses and keys over a channel on which both sides have proven
 * a secret, on a network that nobody else can reach.
 *
 * @packageDocumentation
 */

declare const handle: unique symbol

/** Opaque native object. */
interface Handle<Name extends string> {
  readonly [handle]: Name
}

export interface UcxProbe {
  /** True if UCX can be used. */
  readonly available: boolean
  /** What is missing, with a remedy; undefined if nothing is. */
  readonly problem: string | undefined
  /** The loaded libucp; undefined if none was found. */
  readonly path: string | undefined
  /** Version of UCX, such as `1.13.1`. */
  readonly version: string | undefined
}

/** Returns what UCX is here. It looks for `CKPT_UCX_LIBRARY` (libucp.so.0, or its directory), or else the system's libucp.so.0. */
export function probeUcx(): Promise<UcxProbe>

/**
 * Loads the addon. UCX itself is opened at its first use.
 *
 * @throws Error `ADDON_UNAVAILABLE` with the reason.
 */
export function loadUcx(): {
  readonly probe: typeof probeUcx
  readonly createWorker: typeof createUcxWorker
  readonly transfer: typeof transfer
}

/** Optional inputs that the addon's build found, and those that were missing: `libucx` (its headers). @throws as loadUcx. */
export function ucxBuildInfo(): { readonly with: readonly string[]; readonly without: readonly string[] }

export interface UcxWorkerOptions {
  /** Transports instead of those in `UCX_TLS`, or of UCX's own choice; in the format of `UCX_TLS`. */
  readonly transports?: string
}

/** Opens UCX with a worker, and starts its thread. */
export function createUcxWorker(options?: UcxWorkerOptions): Promise<UcxWorker>

/** A UCX worker. */
export class UcxWorker {
  private constructor()
  /** Where peers find it. */
  readonly address: Buffer
  /** Transports that UCX found and may use, each with its device, such as `rc_mlx5/mlx5_0:1`. */
  readonly transports: readonly string[]
  readonly handle: Handle<'worker'>
  /**
   * Registers memory for local use and for peers.
   *
   * @param memory - One Buffer, or several that follow each other in memory.
   */
  registerMemory(memory: Buffer | readonly Buffer[]): Promise<UcxRegion>
  /**
   * Connects to a peer's worker.
   *
   * @param address - `address` of a worker, from a trusted peer with the same version of UCX: UCX ends the process at a broken one.
   */
  connect(address: Buffer, options: { readonly timeoutMs: number }): Promise<UcxConnection>
  /** Fails running batches with `ABORTED`; regions and connections are no longer usable. */
  close(): Promise<void>
}

/** Registered memory. */
export class UcxRegion {
  private constructor()
  readonly address: bigint
  readonly bytes: number
  /** Key with which peers reach it. */
  readonly remoteKey: Buffer
  readonly handle: Handle<'region'>
  /** Resolves when UCX has released the memory; local batches that use it end first. */
  close(): Promise<void>
}

/** A connection to a peer's worker. */
export class UcxConnection {
  private constructor()
  readonly handle: Handle<'connection'>
  /** Transports that it uses, each with its device, such as `rc_mlx5/mlx5_0:1`. */
  readonly transports: readonly string[]
  readonly alive: boolean
  /** Fails running batches with `ABORTED`. */
  close(): void
}

/** A peer's region. */
export interface UcxRemote {
  readonly address: bigint
  readonly bytes: number
  readonly remoteKey: Buffer
}

export interface UcxTransferRequest {
  readonly connection: UcxConnection
  readonly remotes: readonly UcxRemote[]
  /** Local memories, registered with the connection's worker. */
  readonly local: readonly UcxRegion[]
  /** Rows of five numbers: remote region, offset there, local memory, offset there, bytes. */
  readonly transfers: Float64Array
  /** Maximum size of one request in bytes (default 4 MiB). */
  readonly pieceBytes?: number
  /** Maximum requests in flight (default 16). */
  readonly depth?: number
  /** Time without a finished request, in milliseconds, after which the batch fails and the connection is closed (default 30,000). */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
  readonly onProgress?: (bytes: number) => void
}

/**
 * Moves the bytes of a batch. It settles only when no byte can arrive in (or leave) the memories any more.
 *
 * @returns the number of bytes.
 */
export function transfer(direction: 'read' | 'write', request: UcxTransferRequest): Promise<number>
