/**
 * RDMA for Node over libibverbs: devices, memory regions, reliable connected queue pairs, and batches of one-sided READs and
 * WRITEs. The addon loads on every machine; {@link probeRdma} reports what this one lacks. Nothing here runs on libuv's thread
 * pool: every opened device has its own thread that posts requests and reads completions.
 *
 * Errors are `Error`s with a `code`: `ADDON_UNAVAILABLE` (not built, built without libibverbs' headers, or no libibverbs here),
 * `INVALID_ARGUMENT` and `INVALID_STATE` (with `field`), `OUT_OF_MEMORY`, `UNSUPPORTED`, `NATIVE_FAILURE` (with `errno`), and
 * for transfers `PEER_LOST`, `REGION_REFUSED` and `ABORTED`. A failed work request adds `status`, the name of its work
 * completion status (`IBV_WC_RETRY_EXC_ERR`), `vendorError`, and for `REGION_REFUSED` `region`, the index of the remote region.
 *
 * @packageDocumentation
 */

/** One used entry of a port's GID table. */
export interface RdmaGid {
  readonly index: number
  /** Eight groups of four hex digits. */
  readonly gid: string
  /** Undefined if the kernel does not report it. */
  readonly type: 'IB' | 'RoCE v1' | 'RoCE v2' | undefined
  /** Network interface behind it. */
  readonly interface: string | undefined
}

export interface RdmaPort {
  /** From 1. */
  readonly port: number
  readonly state: 'NOP' | 'DOWN' | 'INIT' | 'ARMED' | 'ACTIVE' | 'ACTIVE_DEFER' | 'unknown'
  readonly linkLayer: 'InfiniBand' | 'Ethernet' | 'unspecified'
  /** Bytes. */
  readonly activeMtu: number
  readonly maxMtu: number
  /** Local identifier of an InfiniBand port. */
  readonly lid: number
  /** Lane speed times width; 0 if unknown. */
  readonly gigabitsPerSecond: number
  readonly gids: readonly RdmaGid[]
}

export interface RdmaDeviceInfo {
  /** Name from the kernel: `mlx5_0`. */
  readonly name: string
  /** Reason why the device cannot be queried; then only its name and place are known. */
  readonly problem: string | undefined
  readonly nodeGuid: string
  readonly firmware: string
  readonly vendorId: number
  readonly vendorPartId: number
  /** domain:bus:device.function; undefined for a device without one (soft-RoCE). */
  readonly pciBusId: string | undefined
  /** -1 if the system does not report it. */
  readonly numaNode: number
  /** CPUs near the device, as a list such as `0-15,32`; empty if the system does not report them. */
  readonly cpus: string
  readonly maxQueuePairs: number
  readonly maxWorkRequests: number
  /** Maximum concurrent READs of a queue pair as requester, and as responder. */
  readonly maxReadsOut: number
  readonly maxReadsIn: number
  readonly maxRegionBytes: number
  readonly ports: readonly RdmaPort[]
}

/** RDMA support of this machine. */
export interface RdmaProbe {
  /** True if libibverbs can be used, even without a device. */
  readonly available: boolean
  /** What is missing, with a remedy. */
  readonly problem: string | undefined
  /** The loaded library. */
  readonly path: string | undefined
  /** True if that library can register dma-bufs; the device and the kernel may still refuse. */
  readonly dmabuf: boolean
  readonly devices: readonly RdmaDeviceInfo[]
}

/** Permitted accesses to a region; its own side may always read it. */
export interface RdmaAccess {
  /** READs may land in it (default true). */
  readonly localWrite?: boolean
  /** Peers may read it (default false). */
  readonly remoteRead?: boolean
  /** Peers may write to it (default false). */
  readonly remoteWrite?: boolean
}

/**
 * Memory known to a device. It keeps the buffers from which it was created; other memory must stay mapped until `close` has
 * resolved.
 */
export declare class RdmaMemoryRegion {
  private constructor()
  /** Its start address, as used by peers. */
  readonly address: bigint
  readonly bytes: number
  /** Key that a peer needs to access it, in addition to the address. */
  readonly remoteKey: number
  /** Only for {@link transfer}. */
  readonly handle: object
  /**
   * Resolves when the device has released the memory; batches that use it end first. Peers get `REGION_REFUSED` from then on.
   */
  close(): Promise<void>
}

/** Data that one side of a connection needs about the other. Plain JSON; the caller transports it. */
export interface RdmaEndpoint {
  readonly queuePair: number
  readonly packetSequence: number
  readonly lid: number
  readonly gid: string
  readonly mtu: number
  readonly readsIn: number
}

export interface RdmaQueuePairOptions {
  /** Default 1. */
  readonly port?: number
  /** Entry of the port's GID table to send from; see {@link RdmaPort.gids}. */
  readonly gidIndex: number
  /** Maximum requests in flight (default 64). */
  readonly depth?: number
}

export interface RdmaConnectOptions {
  /** Local ACK timeout, coded: 4.096 µs × 2^timeout, from 1 to 31 (default 14, 67 ms). */
  readonly timeout?: number
  /** Retries before a request fails with `IBV_WC_RETRY_EXC_ERR`, from 0 to 6 (default 6): 7 means "forever" to some devices. */
  readonly retries?: number
  /** Traffic class of RoCE packets (default 0). */
  readonly trafficClass?: number
  /** Default 0. */
  readonly serviceLevel?: number
}

/** One end of a reliable connection. A failed one is closed and created again. */
export declare class RdmaQueuePair {
  private constructor()
  readonly local: RdmaEndpoint
  /** Only for {@link transfer}. */
  readonly handle: object
  /** Connects; both sides call it with the other side's endpoint, before either transfers. */
  connect(remote: RdmaEndpoint, options?: RdmaConnectOptions): Promise<void>
  /** Fails its requests in flight. */
  close(): Promise<void>
}

/** An opened device: a protection domain, a completion queue and a thread. */
export declare class RdmaDevice {
  private constructor()
  readonly name: string
  /**
   * Registers a buffer, or several that follow each other in memory (a Buffer holds 4 GiB at most).
   * @throws `OUT_OF_MEMORY` at the limit on locked memory; `INVALID_ARGUMENT`; `NATIVE_FAILURE`.
   */
  registerMemory(memory: Buffer | readonly Buffer[], access?: RdmaAccess): Promise<RdmaMemoryRegion>
  /** Memory by its address: a GPU's, where the kernel's peer memory module (`nvidia_peermem`) is loaded. */
  registerPointer(address: bigint, bytes: number, access?: RdmaAccess): Promise<RdmaMemoryRegion>
  /**
   * Registers memory behind a dma-buf, such as a GPU's. `address`: address of its first byte for peers (default 0).
   * @throws `UNSUPPORTED` if library, kernel or device do not support it.
   */
  registerDmabuf(
    dmabuf: { readonly fd: number; readonly offset?: number; readonly bytes: number; readonly address?: bigint },
    access?: RdmaAccess,
  ): Promise<RdmaMemoryRegion>
  /** @throws `INVALID_STATE` for a port that is down or a full completion queue; `INVALID_ARGUMENT`; `NATIVE_FAILURE`. */
  createQueuePair(options: RdmaQueuePairOptions): Promise<RdmaQueuePair>
  /** Running batches end with `ABORTED`. */
  close(): Promise<void>
}

/** A region of the peer. */
export interface RdmaRemote {
  readonly address: bigint
  readonly bytes: number
}

/** A queue pair, with the keys under which its devices know the memories. */
export interface RdmaLane {
  readonly pair: RdmaQueuePair
  /** By local memory: its region on this pair's device. */
  readonly local: readonly RdmaMemoryRegion[]
  /** By remote region: its key on the device at the other end of this pair. */
  readonly remoteKeys: readonly number[]
}

export interface RdmaTransferRequest {
  /**
   * Connected queue pairs that share the work, of one or several devices: each takes the next piece when it has room. The
   * remaining pieces of a failed one go to the others.
   */
  readonly lanes: readonly RdmaLane[]
  readonly remotes: readonly RdmaRemote[]
  /** Five numbers per transfer: index into `remotes`, offset there, index of the local memory, offset there, bytes. */
  readonly transfers: Float64Array
  /** Maximum size of one request (default 1 MiB). */
  readonly pieceBytes?: number
  /** Time without an arriving piece after which the batch fails with `PEER_LOST` (default 30 000). */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
  /** Called from time to time with the bytes moved so far. */
  readonly onProgress?: (bytes: number) => void
}

/**
 * Moves a batch and resolves to its bytes. It settles once no byte can arrive in, or leave, the memories any more.
 *
 * @throws `PEER_LOST` if no lane is left or nothing moves in time; `REGION_REFUSED` (with `region`) for a wrong key or range;
 * `INVALID_ARGUMENT` for transfers outside their memories; `ABORTED` by the signal.
 */
export declare function transfer(direction: 'read' | 'write', request: RdmaTransferRequest): Promise<number>

/**
 * Optional inputs that the addon's build found, and those that were missing: `libibverbs` (its headers). @throws
 * `ADDON_UNAVAILABLE`.
 */
export declare function rdmaBuildInfo(): { readonly with: readonly string[]; readonly without: readonly string[] }

/**
 * Returns the RDMA support of this machine, and what is missing. @throws `ADDON_UNAVAILABLE` only if the addon is not built.
 */
export declare function probeRdma(): Promise<RdmaProbe>

/**
 * Opens a device. `completions`: maximum requests in flight on all its queue pairs together (default 4096).
 *
 * @throws `INVALID_ARGUMENT` for an unknown name; `ADDON_UNAVAILABLE`; `NATIVE_FAILURE`.
 */
export declare function openDevice(name: string, options?: { readonly completions?: number }): Promise<RdmaDevice>

/** Returns the functions above, if the addon can be loaded. @throws `ADDON_UNAVAILABLE`; the message tells how to get it. */
export declare function loadRdma(): {
  readonly probe: typeof probeRdma
  readonly openDevice: typeof openDevice
  readonly transfer: typeof transfer
}
