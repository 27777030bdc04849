import type { NativeCancellation } from './cancellation.d.ts'
import type { NativeMemory } from './memory.d.ts'

/** Listens, and serves reads of registered memory on its own threads. */
export interface NativeTcpEndpoint {
  /** 32 hex digits. */
  readonly id: string
  readonly protocol: number
  /** With the actual ports. */
  readonly addresses: readonly string[]
  /** Opens bytes offset … offset + bytes - 1 of the memory to peers; returns the region's key, 32 hex digits. */
  register(memory: NativeMemory, offset: number, bytes: number): string
  /** Refuses the key from now on; resolves when the region is not being read any more. Unknown keys are ignored. */
  unregister(key: string): Promise<void>
  /** Bytes sent so far. */
  servedBytes(): number
  /** Number of open connections. */
  connections(): number
  close(): Promise<void>
}

/** Protection of a connection after its handshake: see `TcpProtection` of `@ckpt/transport`. */
export type NativeProtection = 'none' | 'authenticated' | 'encrypted'

/** Connections to another endpoint. */
export interface NativeTcpPeer {
  /** Protection that both sides agreed on. */
  readonly protection: NativeProtection
  /** Cipher that protects bytes of regions, if any, and the library that computes it, as readable text. */
  readonly cipher: string
  /** `transfers`: region, regionOffset, memory, memoryOffset and bytes of each. Resolves with the bytes read. */
  read(
    keys: readonly string[],
    memories: readonly NativeMemory[],
    transfers: Float64Array,
    timeoutMs: number,
    onProgress?: (bytes: number) => void,
    cancellation?: NativeCancellation,
  ): Promise<number>
  alive(): boolean
  close(): Promise<void>
}

export interface NativeOneSided {
  /**
   * `addresses`: `host:port` to listen on, port 0 for any. `secret`: at least 16 characters. `niceness` of the serving threads:
   * 0 to 19 (default). `protection`: the minimum that it accepts (default `authenticated`).
   */
  createTcpEndpoint(
    addresses: readonly string[],
    secret: string,
    niceness?: number,
    protection?: NativeProtection,
  ): NativeTcpEndpoint
  /** `streams`: 1 to 64 connections. Errors carry PEER_LOST, PEER_UNAUTHORIZED or PEER_PROTOCOL. */
  connectTcpPeer(
    id: string,
    addresses: readonly string[],
    secret: string,
    streams: number,
    timeoutMs: number,
    protection?: NativeProtection,
    cancellation?: NativeCancellation,
  ): Promise<NativeTcpPeer>
}
