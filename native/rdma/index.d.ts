/**
 * RDMA for Node over libibverbs: devices, memory regions, reliable connected queue pairs, and batches of one-sided READs and WRITEs.
 * The addon loads on every machine; {@link probeRdma} says what this one lacks. Nothing here runs on libuv's thread pool: every
 * opened device has a thread of its own that posts requests and takes completions.
 *
 * Errors are `Error`s with a `code`: `ADDON_UNAVAILABLE` (not built, built without libibverbs' headers, or no libibverbs here),
 * `INVALID_ARGUMENT` and `INVALID_STATE` (with `field`), `OUT_OF_MEMORY`, `UNSUPPORTED`, `NATIVE_FAILURE` (with `errno`), and of
 * transfers `PEER_LOST`, `REGION_REFUSED` and `ABORTED`. A work request that failed adds `status`, the name of its work completion
 * status (`IBV_WC_RETRY_EXC_ERR`), `vendorError`, and for `REGION_REFUSED` `region`, the index of the remote region.
 *
 * @packageDocumentation
 */

/** One used entry of a port's GID table. */
export interface RdmaGid {
  readonly index: number
  /** Eight groups of four hex digits. */
  readonly gid: string
  /** Undefined where the kernel does not say. */
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
  /** Lane speed times width; 0 where that is not known. */
  readonly gigabitsPerSecond: number
  readonly gids: readonly RdmaGid[]
}

export interface RdmaDeviceInfo {
  /** As the kernel names it: `mlx5_0`. */
  readonly name: string
  /** Why the device cannot be asked; then only its name and place are known. */
  readonly problem: string | undefined
  readonly nodeGuid: string
  readonly firmware: string
  readonly vendorId: number
  readonly vendorPartId: number
  /** domain:bus:device.function; undefined for a device without one (soft-RoCE). */
  readonly pciBusId: string | undefined
  /** -1 where the system does not say. */
  readonly numaNode: number
  /** CPUs near the device, as a list such as `0-15,32`; empty where the system does not say. */
  readonly cpus: string
  readonly maxQueuePairs: number
  readonly maxWorkRequests: number
  /** READs that a queue pair may have under way as the one who asks, and as the one who answers. */
  readonly maxReadsOut: number
  readonly maxReadsIn: number
  readonly maxRegionBytes: number
  readonly ports: readonly RdmaPort[]
}

/** What this machine has for RDMA. */
export interface RdmaProbe {
  /** True if libibverbs can be used. There may be no device all the same. */
  readonly available: boolean
  /** What is missing, and what helps. */
  readonly problem: string | undefined
  /** The library that was loaded. */
  readonly path: string | undefined
  /** True if that library can register dma-bufs; the device and the kernel may still refuse. */
  readonly dmabuf: boolean
  readonly devices: readonly RdmaDeviceInfo[]
}

/** What may be done with a region; its own side may always read it. */
export interface RdmaAccess {
  /** READs may land in it (default true). */
  readonly localWrite?: boolean
  /** Peers may read it (default false). */
  readonly remoteRead?: boolean
  /** Peers may write to it (default false). */
  readonly remoteWrite?: boolean
}

/** Memory known to a device. It keeps the buffers it was made of; other memory must stay mapped until `close` has resolved. */
export declare class RdmaMemoryRegion {
  private constructor()
  /** Where it starts, as peers address it. */
  readonly address: bigint
  readonly bytes: number
  /** What a peer must know to get at it, besides the address. */
  readonly remoteKey: number
  /** For {@link transfer} alone. */
  readonly handle: object
  /** Resolves when the device has let go of the memory; batches that use it end first. Peers get `REGION_REFUSED` from then on. */
  close(): Promise<void>
}

/** What one side of a connection must know of the other. Plain JSON; how it gets there is up to the caller. */
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
  /** Requests under way at a time (default 64). */
  readonly depth?: number
}

export interface RdmaConnectOptions {
  /** Local ACK timeout, coded: 4.096 µs × 2^timeout, from 1 to 31 (default 14, 67 ms). */
  readonly timeout?: number
  /** Retries before a request fails with `IBV_WC_RETRY_EXC_ERR`, from 0 to 6 (default 6): 7 means "forever" to some devices. */
  readonly retries?: number
  /** Of RoCE packets (default 0). */
  readonly trafficClass?: number
  /** Default 0. */
  readonly serviceLevel?: number
}

/** One end of a reliable connection. One that failed is closed and made again. */
export declare class RdmaQueuePair {
  private constructor()
  readonly local: RdmaEndpoint
  /** For {@link transfer} alone. */
  readonly handle: object
  /** Both sides call it with the other one's endpoint, before either transfers. */
  connect(remote: RdmaEndpoint, options?: RdmaConnectOptions): Promise<void>
  /** What it has under way fails. */
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
   * Memory behind a dma-buf, such as a GPU's. `address`: what its first byte is addressed by (default 0).
   * @throws `UNSUPPORTED` where library, kernel or device cannot.
   */
  registerDmabuf(
    dmabuf: { readonly fd: number; readonly offset?: number; readonly bytes: number; readonly address?: bigint },
    access?: RdmaAccess,
  ): Promise<RdmaMemoryRegion>
  /** @throws `INVALID_STATE` for a port that is down or a full completion queue; `INVALID_ARGUMENT`; `NATIVE_FAILURE`. */
  createQueuePair(options: RdmaQueuePairOptions): Promise<RdmaQueuePair>
  /** Batches under way end with `ABORTED`. */
  close(): Promise<void>
}

/** A region of the peer. */
export interface RdmaRemote {
  readonly address: bigint
  readonly bytes: number
}

/** A queue pair, with the keys by which its devices know the memories. */
export interface RdmaLane {
  readonly pair: RdmaQueuePair
  /** By local memory: its region with this pair's device. */
  readonly local: readonly RdmaMemoryRegion[]
  /** By remote region: its key with the device at the other end of this pair. */
  readonly remoteKeys: readonly number[]
}

export interface RdmaTransferRequest {
  /**
   * Connected queue pairs that share the work, of one or several devices: each takes the next piece when it has room. What one leaves
   * that fails goes to the others.
   */
  readonly lanes: readonly RdmaLane[]
  readonly remotes: readonly RdmaRemote[]
  /** Five numbers a transfer: index into `remotes`, offset there, index of the local memory, offset there, bytes. */
  readonly transfers: Float64Array
  /** Size of one request at most (default 1 MiB). */
  readonly pieceBytes?: number
  /** No piece arriving for this long is `PEER_LOST` (default 30 000). */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
  /** Called now and then with the bytes moved so far. */
  readonly onProgress?: (bytes: number) => void
}

/**
 * Moves a batch and resolves with its bytes. It settles once nothing lands in, or leaves, the memories any more.
 *
 * @throws `PEER_LOST` when no lane is left or nothing moves in time; `REGION_REFUSED` (with `region`) for a wrong key or range;
 * `INVALID_ARGUMENT` for transfers outside their memories; `ABORTED` by the signal.
 */
export declare function transfer(direction: 'read' | 'write', request: RdmaTransferRequest): Promise<number>

/** The optional inputs that the addon's build found, and those that it did without: `libibverbs` (its headers). @throws `ADDON_UNAVAILABLE`. */
export declare function rdmaBuildInfo(): { readonly with: readonly string[]; readonly without: readonly string[] }

/** What this machine has for RDMA, and what it lacks. @throws `ADDON_UNAVAILABLE` only when the addon is not built. */
export declare function probeRdma(): Promise<RdmaProbe>

/**
 * Opens a device. `completions`: how many requests all its queue pairs together may have under way (default 4096).
 *
 * @throws `INVALID_ARGUMENT` for a name that no device has; `ADDON_UNAVAILABLE`; `NATIVE_FAILURE`.
 */
export declare function openDevice(name: string, options?: { readonly completions?: number }): Promise<RdmaDevice>

/** The functions above, where the addon can be loaded. @throws `ADDON_UNAVAILABLE`; the message says how to get it. */
export declare function loadRdma(): {
  readonly probe: typeof probeRdma
  readonly openDevice: typeof openDevice
  readonly transfer: typeof transfer
}
