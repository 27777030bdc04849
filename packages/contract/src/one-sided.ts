import type { ContiguousCopies } from './copy-lists.ts'
import type { HostMemory, TransferStats } from './host.ts'

/** Transport of an endpoint. */
export type OneSidedKind = 'tcp' | 'rdma' | 'ucx'

/**
 * Address data with which peers find an endpoint. Plain JSON and small; it holds no secret, and nothing of it is ever executed.
 */
export interface EndpointDescriptor {
  readonly kind: OneSidedKind
  /** Version of the kind's wire protocol. */
  readonly protocol: number
  /** 32 hex digits, drawn when the endpoint was created: a restarted endpoint has a different id. */
  readonly id: string
  /**
   * `host:port` (IPv6 in brackets) of the endpoint or, for RDMA, of its bootstrap listener, best first. A peer tries them in
   * turn, or uses several at once if the kind spreads its streams.
   */
  readonly addresses: readonly string[]
  /** NICs that it sends and receives with, each named uniquely in the cluster (`host/device`); empty if they are unknown. */
  readonly nics: readonly string[]
  /** Further data that the kind needs (for RDMA: ports, GIDs), as flat data. */
  readonly details?: Readonly<Record<string, string | number | boolean | readonly string[] | readonly number[]>>
}

/** A registered region as peers see it. Plain JSON. */
export interface RegionDescriptor {
  /**
   * Key that the endpoint requires before it touches the region: opaque to everyone else, unguessable, and never reused for
   * another registration, even of the same memory.
   */
  readonly key: string
  /** Size in bytes; offsets of transfers count from its start. */
  readonly bytes: number
}

export interface RegisterRegionOptions {
  /** First byte of the memory that is opened to peers (default 0). */
  readonly offset?: number
  /** Number of bytes (default: to the end of the memory). */
  readonly bytes?: number
  /** True if peers may also write to it (default false). */
  readonly writable?: boolean
}

/** Local memory that peers may read (and, if registered so, write). */
export interface RegisteredRegion {
  readonly descriptor: RegionDescriptor
  /**
   * Closes the region to peers: its key is refused from now on. Resolves when nothing of it is being sent or received any more;
   * the memory stays mapped until then. Calling it again returns the same promise.
   */
  close(): Promise<void>
}

/** A batch of transfers between a peer's regions and local memories. It succeeds or fails as a whole. */
export interface OneSidedRequest {
  /** The peer's regions. */
  readonly regions: readonly RegionDescriptor[]
  /**
   * Local memories, created by the host of this process. The caller need not register them; kinds that require registration
   * cache it.
   */
  readonly memories: readonly HostMemory[]
  /** Transfers from `regions` into `memories`, of any sizes: the endpoint splits and spreads them over its streams. */
  readonly transfers: ContiguousCopies
  /** Time in milliseconds without an arriving byte after which the peer is `PEER_LOST`. */
  readonly timeoutMs: number
  /** Ends the batch with `ABORTED`. The promise settles once no byte can arrive in (or leave) the memories any more. */
  readonly signal?: AbortSignal
  /** Called from time to time with the bytes moved so far. */
  readonly onProgress?: (bytes: number) => void
}

/**
 * A connection to a different endpoint. Batches may overlap; each fails independently, except that a lost peer fails all of
 * them.
 */
export interface OneSidedPeer {
  readonly descriptor: EndpointDescriptor
  /** True if it is still usable. Connect to a lost peer again with {@link OneSided.connect}. */
  readonly alive: boolean
  /**
   * Reads from the peer's regions directly into local memories, without the peer's JavaScript.
   *
   * @throws CkptError `PEER_LOST` (field `peer`), `REGION_REFUSED` (fields `peer` and `region`, an index) for a key that is
   * not, or no longer, registered there (`field` `closed`: it was registered until the region was closed) or a range outside
   * the region, `INVALID_ARGUMENT` (field `transfers`) for a range outside a local memory, `ABORTED`. After a failure the
   * contents of the batch's ranges are undefined.
   */
  read(request: OneSidedRequest): Promise<TransferStats>
  /** Writes local memories into the peer's writable regions; errors as for `read`. Absent if the kind does not support it. */
  write?(request: OneSidedRequest): Promise<TransferStats>
  /** Fails running batches with `ABORTED`. */
  close(): Promise<void>
}

export interface ConnectPeerOptions {
  /** Secret that the peer's endpoint was created with. It is proven (challenge and response), never sent. */
  readonly secret: string
  /** Milliseconds for the whole connection. */
  readonly timeoutMs: number
  readonly signal?: AbortSignal
}

/**
 * An endpoint: serves one-sided reads of registered memory from native threads, and reads from other endpoints of the same
 * kind. Only registered memory can be read, and only by peers that know the endpoint's secret.
 */
export interface OneSided {
  readonly kind: OneSidedKind
  readonly descriptor: EndpointDescriptor
  /** Bytes that peers have read from it so far; absent if this side cannot count them. */
  readonly servedBytes?: number
  /**
   * @throws CkptError `INVALID_ARGUMENT` for a range outside the memory, `NATIVE_FAILURE` if the memory cannot be registered.
   */
  register(memory: HostMemory, options?: RegisterRegionOptions): Promise<RegisteredRegion>
  /**
   * @throws CkptError `PEER_LOST` if there is no answer, `PEER_UNAUTHORIZED` if the secret is not the peer's, `PEER_PROTOCOL`
   * if the peer uses a different protocol or is a different endpoint than the descriptor says (`field` `id`: it was restarted).
   */
  connect(peer: EndpointDescriptor, options: ConnectPeerOptions): Promise<OneSidedPeer>
  /** Closes regions and connections, then the endpoint. */
  close(): Promise<void>
}
