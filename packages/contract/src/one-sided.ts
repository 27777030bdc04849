import type { ContiguousCopies } from './copy-lists.ts'
import type { HostMemory, TransferStats } from './host.ts'

/** By which means an endpoint is reached. */
export type OneSidedKind = 'tcp' | 'rdma'

/** How peers find an endpoint. Plain JSON and small; it holds no secret, and nothing of it is ever executed. */
export interface EndpointDescriptor {
  readonly kind: OneSidedKind
  /** Version of the kind's wire protocol. */
  readonly protocol: number
  /** 32 hex digits, drawn when the endpoint was made: an endpoint that was started again is another one. */
  readonly id: string
  /**
   * `host:port` (IPv6 in brackets) under which the endpoint, or for RDMA its bootstrap listener, can be reached, best first. A peer
   * tries them in turn, or uses several at once where the kind spreads its streams.
   */
  readonly addresses: readonly string[]
  /** NICs that it sends and receives with, each named uniquely in the cluster (`host/device`); empty where that is not known. */
  readonly nics: readonly string[]
  /** What else the kind needs (for RDMA: ports, GIDs), as flat data. */
  readonly details?: Readonly<Record<string, string | number | boolean | readonly string[] | readonly number[]>>
}

/** A registered region as peers see it. Plain JSON. */
export interface RegionDescriptor {
  /**
   * What the endpoint wants to hear before it touches the region: opaque to everybody else, unguessable, and never used again for
   * another registration, not even of the same memory.
   */
  readonly key: string
  /** Size in bytes; offsets of transfers count from its start. */
  readonly bytes: number
}

export interface RegisterRegionOptions {
  /** First byte of the memory that is opened to peers (default 0). */
  readonly offset?: number
  /** How many bytes (default: to the end of the memory). */
  readonly bytes?: number
  /** Whether peers may write to it as well (default false). */
  readonly writable?: boolean
}

/** Local memory that peers may read (and, where so registered, write). */
export interface RegisteredRegion {
  readonly descriptor: RegionDescriptor
  /**
   * Closes the region to peers: its key is refused from now on. Resolves when nothing of it is being sent or received any more; the
   * memory stays mapped until then. Calling it again gives the same promise.
   */
  close(): Promise<void>
}

/** A batch of transfers between a peer's regions and local memories. Ends as a whole: there is no partial success. */
export interface OneSidedRequest {
  /** The peer's regions. */
  readonly regions: readonly RegionDescriptor[]
  /** Local memories, made by the host of this process. They need no registration by the caller; kinds that need one cache it. */
  readonly memories: readonly HostMemory[]
  /** From `regions` into `memories`, of any sizes: the endpoint splits and spreads them over its streams. */
  readonly transfers: ContiguousCopies
  /** No byte arriving for this long is `PEER_LOST`. Milliseconds. */
  readonly timeoutMs: number
  /** Ends the batch with `ABORTED`. The promise settles once nothing lands in (or leaves) the memories any more. */
  readonly signal?: AbortSignal
  /** Called now and then with the bytes moved so far. */
  readonly onProgress?: (bytes: number) => void
}

/** A connection to another endpoint. Batches may overlap; each fails for itself, except that a lost peer fails all of them. */
export interface OneSidedPeer {
  readonly descriptor: EndpointDescriptor
  /** Whether it can still be used. A lost peer is connected again with {@link OneSided.connect}. */
  readonly alive: boolean
  /**
   * Reads from the peer's regions straight into local memories, without the peer's JavaScript taking part.
   *
   * @throws CkptError `PEER_LOST` (field `peer`), `REGION_REFUSED` (fields `peer` and `region`, an index) for a key that is not, or no
   * longer, registered there (`field` `closed`: it was, until the region was closed) or a range outside the region, `INVALID_ARGUMENT` (field `transfers`) for a range outside a local memory,
   * `ABORTED`. On every failure the memories' ranges of the batch hold anything.
   */
  read(request: OneSidedRequest): Promise<TransferStats>
  /** Writes local memories into the peer's writable regions; errors as of `read`. Absent where the kind cannot. */
  write?(request: OneSidedRequest): Promise<TransferStats>
  /** Fails batches under way with `ABORTED`. */
  close(): Promise<void>
}

export interface ConnectPeerOptions {
  /** The secret that the peer's endpoint was made with. It is proven (challenge and response), never sent. */
  readonly secret: string
  /** Milliseconds, for the whole of it. */
  readonly timeoutMs: number
  readonly signal?: AbortSignal
}

/**
 * An endpoint: serves one-sided reads of registered memory from native threads, and reads from other endpoints of the same kind.
 * Nothing but what is registered can be read, by nobody but who knows the endpoint's secret.
 */
export interface OneSided {
  readonly kind: OneSidedKind
  readonly descriptor: EndpointDescriptor
  /** Bytes that peers have read from it so far; absent where nobody on this side can tell. */
  readonly servedBytes?: number
  /** @throws CkptError `INVALID_ARGUMENT` for a range outside the memory, `NATIVE_FAILURE` where the memory cannot be registered. */
  register(memory: HostMemory, options?: RegisterRegionOptions): Promise<RegisteredRegion>
  /**
   * @throws CkptError `PEER_LOST` where nobody answers, `PEER_UNAUTHORIZED` where the secret is not the peer's, `PEER_PROTOCOL` where
   * whoever answers speaks another protocol or is another endpoint than the descriptor says (`field` `id`: it was restarted).
   */
  connect(peer: EndpointDescriptor, options: ConnectPeerOptions): Promise<OneSidedPeer>
  /** Closes regions and connections, then the endpoint. */
  close(): Promise<void>
}
