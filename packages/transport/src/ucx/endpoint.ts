import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import {
  CkptError,
  type ConnectPeerOptions,
  type EndpointDescriptor,
  type HostMemory,
  type OneSided,
  type RegisteredRegion,
  type RegisterRegionOptions,
} from '@ckpt/contract'
import { createUcxWorker, probeUcx as probe, type UcxProbe, type UcxRegion, type UcxWorker } from '@ckpt/native-ucx'
import { native } from '../addon.ts'
import { LocalMemories, viewsOf } from '../registrations.ts'
import { UcxConversation } from './client.ts'
import { UCX_PROTOCOL, type ResolvedRegion } from './messages.ts'
import { UcxPeer } from './peer.ts'
import { Readers } from './readers.ts'

/** Options of a UCX endpoint. */
export interface UcxEndpointOptions {
  /** `host:port` on which peers prove the secret and ask for keys (over TCP; port 0 selects a free one). */
  readonly listen: string
  /** Secret that peers have to prove; at least 16 characters. */
  readonly secret: string
  /** `host:port` under which peers reach it, if that is not `listen`; port 0 means the selected one. */
  readonly advertise?: readonly string[]
  /**
   * Transports that UCX may use, in the format of `UCX_TLS` (default: `UCX_TLS`, otherwise all but TCP: the TCP endpoint is
   * faster, and does not admit strangers).
   */
  readonly transports?: string
  /** Maximum size of one request in bytes (default 4 MiB). */
  readonly pieceBytes?: number
  /** Maximum requests in flight for each batch (default 16). */
  readonly depth?: number
}

const LEAST_SECRET = 16
/** Number of keys of closed regions that are distinguished from unknown ones. */
const REMEMBERED = 2 ** 16
/** Transports that do not leave the machine. */
const LOCAL = /^(?:self|sysv|posix|cma|knem|xpmem|cuda\w*|gdr_copy|rocm\w*|ze\w*)\//

/**
 * Returns what UCX is here, and what is missing.
 *
 * @throws CkptError `ADDON_UNAVAILABLE` if the addon itself is not built.
 */
export async function probeUcx(): Promise<UcxProbe> {
  return native(probe)
}

/**
 * True for versions of UCX that end the process if a connection fails, or is closed, before it is complete: an assertion that
 * 1.14 no longer has.
 */
export function endsProcesses(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major < 1 || (major === 1 && minor < 14)
}

/**
 * Creates an endpoint whose regions peers read and write over UCX. Peers prove the secret to it over TCP, and get the worker's
 * address and the keys of regions over that connection, encrypted.
 *
 * UCX itself protects nothing: whoever reaches one of its transports can read and write this process's memory. Use it only on
 * networks that nobody else can reach.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the option, `ADDON_UNAVAILABLE`, `NATIVE_FAILURE` with what UCX says.
 */
export async function createUcxEndpoint(options: UcxEndpointOptions): Promise<UcxOneSided> {
  if (options.secret.length < LEAST_SECRET) {
    const text = `the secret must have at least ${LEAST_SECRET} characters`
    throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'secret' } })
  }
  const { version, problem } = await probeUcx()
  if (version === undefined) throw new CkptError('ADDON_UNAVAILABLE', problem ?? 'there is no UCX')
  const transports = options.transports ?? (process.env['UCX_TLS'] === undefined ? '^tcp' : '')
  const worker = await native(() => createUcxWorker({ transports }))
  try {
    const endpoint = new UcxOneSided(options, worker, version)
    await endpoint.listen(options.listen)
    return endpoint
  } catch (error) {
    await worker.close()
    throw error
  }
}

/** See {@link createUcxEndpoint}. */
export class UcxOneSided implements OneSided {
  readonly kind = 'ucx'
  /** Version of UCX. */
  readonly version: string
  /** Transports that UCX found and may use for other machines, each with its device, such as `rc_mlx5/mlx5_0:1`. */
  readonly networkTransports: readonly string[]
  readonly #id = randomBytes(16).toString('hex')
  readonly #options: UcxEndpointOptions
  readonly #worker: UcxWorker
  readonly #readers: Readers
  readonly #memories: LocalMemories<UcxRegion>
  readonly #regions = new Map<string, ResolvedRegion>()
  /** Most recently closed ones, oldest first. */
  readonly #closedKeys = new Set<string>()
  readonly #open = new Map<string, RegisteredRegion>()
  readonly #peers = new Set<UcxPeer>()
  readonly #workerClosed: Promise<void>
  #onWorkerClosed!: (closing: Promise<void>) => void
  #addresses: readonly string[] = []
  #closed: Promise<void> | undefined

  /** @internal Use {@link createUcxEndpoint}. */
  constructor(options: UcxEndpointOptions, worker: UcxWorker, version: string) {
    this.version = version
    this.networkTransports = worker.transports.filter((name) => !LOCAL.test(name))
    this.#options = options
    this.#worker = worker
    this.#workerClosed = new Promise((resolve) => (this.#onWorkerClosed = resolve))
    this.#memories = new LocalMemories(async (memory) => [await this.#map(memory, 0, memory.bytes)])
    this.#readers = new Readers({
      id: this.#id,
      secret: options.secret,
      address: worker.address.toString('base64'),
      version,
      regionOf: (key) => this.#regions.get(key) ?? (this.#closedKeys.has(key) ? 'closed' : undefined),
    })
  }

  /** @internal */
  async listen(address: string): Promise<void> {
    const port = await this.#readers.listen(address)
    this.#addresses = (this.#options.advertise ?? [address]).map((one) => one.replace(/:0$/, `:${port}`))
  }

  get descriptor(): EndpointDescriptor {
    const devices = new Set(this.networkTransports.map((name) => name.slice(name.indexOf('/') + 1)))
    return {
      kind: this.kind,
      protocol: UCX_PROTOCOL,
      id: this.#id,
      addresses: this.#addresses,
      nics: [...devices].map((device) => `${hostname()}/${device}`),
      details: { version: this.version },
    }
  }

  /** Number of connected peers. */
  get connections(): number {
    return this.#readers.connections
  }

  async register(
    memory: HostMemory,
    { offset = 0, bytes = memory.bytes - offset, writable = false }: RegisterRegionOptions = {},
  ): Promise<RegisteredRegion> {
    this.#assertOpen()
    const region = await this.#map(memory, offset, bytes)
    const key = randomBytes(16).toString('hex')
    const { address, remoteKey } = region
    this.#regions.set(key, { address: String(address), bytes, writable, remoteKey: remoteKey.toString('base64') })
    let closed: Promise<void> | undefined
    const close = async (): Promise<void> => {
      this.#open.delete(key)
      this.#regions.delete(key)
      this.#closedKeys.add(key)
      for (const old of this.#closedKeys) if (this.#closedKeys.size > REMEMBERED) this.#closedKeys.delete(old)
      await this.#readers.release(key)
      // An endpoint that is being closed releases everything together.
      await (this.#closed === undefined ? native(() => region.close()) : this.#workerClosed)
    }
    const registered: RegisteredRegion = { descriptor: { key, bytes }, close: () => (closed ??= close()) }
    this.#open.set(key, registered)
    if (this.#closed === undefined) return registered
    await registered.close()
    throw this.#closedError()
  }

  async connect(peer: EndpointDescriptor, options: ConnectPeerOptions): Promise<UcxPeer> {
    this.#assertOpen()
    if (peer.kind !== this.kind) {
      const text = `endpoint ${peer.id} is reached by ${peer.kind}, not by ucx`
      throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'kind' } })
    }
    const started = performance.now()
    const remaining = (): number => Math.max(1, options.timeoutMs - (performance.now() - started))
    const client = await UcxConversation.connect(peer, options)
    try {
      const address = await client.open(this.version, peer.id, remaining())
      const connection = await native(() => this.#worker.connect(address, { timeoutMs: remaining() }))
      const connected = new UcxPeer(peer, client, connection, {
        pieceBytes: this.#options.pieceBytes ?? 4 * 2 ** 20,
        depth: this.#options.depth ?? 16,
        regionOf: async (memory) => (await this.#memories.regionsOf(memory))[0]!,
        onClose: (one) => this.#peers.delete(one),
      })
      this.#peers.add(connected)
      if (this.#closed === undefined) return connected
      await connected.close()
      throw this.#closedError()
    } catch (error) {
      client.close()
      throw CkptError.is(error) ? error.with({ peer: peer.id }) : error
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    await Promise.all([...this.#peers].map((peer) => peer.close()))
    await this.#readers.close()
    await this.#memories.close()
    this.#onWorkerClosed(native(() => this.#worker.close()))
    await Promise.all([...this.#open.values()].map((region) => region.close()))
    await this.#workerClosed
  }

  async #map(memory: HostMemory, offset: number, bytes: number): Promise<UcxRegion> {
    const views = viewsOf(memory, offset, bytes)
    return native(() => this.#worker.registerMemory(views))
  }

  #assertOpen(): void {
    if (this.#closed !== undefined) throw this.#closedError()
  }

  #closedError(): CkptError {
    return new CkptError('INVALID_STATE', `endpoint ${this.#id} is closed`)
  }
}
