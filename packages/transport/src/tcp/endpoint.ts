import {
  CkptError,
  type ConnectPeerOptions,
  type EndpointDescriptor,
  type HostMemory,
  type OneSided,
  type RegisteredRegion,
  type RegisterRegionOptions,
} from '@ckpt/contract'
import type { NativeTcpEndpoint } from '@ckpt/native-host'
import { hostAddon, nativeSync } from '../addon.ts'
import { nativeMemory } from '../host/memory.ts'
import { connectTcp, type TcpPeer } from './peer.ts'
import type { TcpProtection } from './protection.ts'

/** Options of a TCP endpoint. */
export interface TcpEndpointOptions {
  /** `host:port` to listen on; port 0 selects a free one. */
  readonly listen: readonly string[]
  /** Secret that peers have to prove; at least 16 characters. */
  readonly secret: string
  /**
   * `host:port` under which peers reach it, if these differ from the listening ones (port 0 means the port selected by the
   * address at the same place in `listen`).
   */
  readonly advertise?: readonly string[]
  /** Connections to each peer (default 4). */
  readonly streams?: number
  /**
   * Niceness of the serving threads, 0 to 19 (default 19: other work on this machine comes first if cores are scarce; such a
   * thread gets 1.5 % of a core next to a thread of niceness 0, and one of niceness 10 gets a tenth).
   */
  readonly niceness?: number
  /** Minimum protection of its connections, in both directions (default `authenticated`). */
  readonly protection?: TcpProtection
}

/** Default number of connections to each peer. */
export const TCP_STREAMS = 4

/**
 * Creates an endpoint that serves one-sided reads over TCP from native threads. Data in transit is authenticated; `protection`
 * can also encrypt it.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the field, `NATIVE_FAILURE` naming the address that cannot be listened on,
 * `ADDON_UNAVAILABLE`.
 */
export function createTcpEndpoint(options: TcpEndpointOptions): TcpEndpoint {
  return new TcpEndpoint(
    options,
    nativeSync(() => hostAddon().createTcpEndpoint(options.listen, options.secret, options.niceness, options.protection)),
  )
}

/** See {@link createTcpEndpoint}. */
export class TcpEndpoint implements OneSided {
  readonly kind = 'tcp'
  readonly descriptor: EndpointDescriptor
  readonly #native: NativeTcpEndpoint
  readonly #streams: number
  readonly #protection: TcpProtection | undefined
  readonly #peers = new Set<TcpPeer>()
  #closed: Promise<void> | undefined

  /** @internal Use {@link createTcpEndpoint}. */
  constructor(options: TcpEndpointOptions, native: NativeTcpEndpoint) {
    this.#native = native
    this.#streams = options.streams ?? TCP_STREAMS
    this.#protection = options.protection
    const addresses = options.advertise?.map((address, index) => withPort(address, native.addresses[index]))
    this.descriptor = {
      kind: 'tcp',
      protocol: native.protocol,
      id: native.id,
      addresses: addresses ?? native.addresses,
      nics: [],
    }
  }

  /** Bytes that peers have read so far. */
  get servedBytes(): number {
    return this.#native.servedBytes()
  }

  /** Number of open connections of peers. */
  get connections(): number {
    return this.#native.connections()
  }

  register(memory: HostMemory, options: RegisterRegionOptions = {}): Promise<RegisteredRegion> {
    return new Promise((resolve) => resolve(this.#register(memory, options)))
  }

  #register(
    memory: HostMemory,
    { offset = 0, bytes = memory.bytes - offset, writable }: RegisterRegionOptions,
  ): RegisteredRegion {
    this.#assertOpen()
    if (writable === true)
      throw new CkptError('UNSUPPORTED', 'TCP endpoints serve reads only', { fields: { field: 'writable' } })
    const key = nativeSync(() => this.#native.register(nativeMemory(memory), offset, bytes))
    let closed: Promise<void> | undefined
    return { descriptor: { key, bytes }, close: () => (closed ??= this.#native.unregister(key)) }
  }

  async connect(peer: EndpointDescriptor, options: ConnectPeerOptions): Promise<TcpPeer> {
    this.#assertOpen()
    const connected = await connectTcp(peer, {
      ...options,
      streams: this.#streams,
      protection: this.#protection,
      onClose: (one) => this.#peers.delete(one),
    })
    this.#peers.add(connected)
    if (this.#closed !== undefined) await connected.close()
    return connected
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    await Promise.all([...this.#peers].map((peer) => peer.close()))
    await this.#native.close()
  }

  #assertOpen(): void {
    if (this.#closed !== undefined) throw new CkptError('INVALID_STATE', `endpoint ${this.descriptor.id} is closed`)
  }
}

/** Returns `address` with the port of `listening` if its own is 0. */
function withPort(address: string, listening: string | undefined): string {
  const port = listening?.slice(listening.lastIndexOf(':') + 1)
  return port !== undefined && address.endsWith(':0') ? `${address.slice(0, -1)}${port}` : address
}
