import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import {
  CkptError,
  type ConnectPeerOptions,
  type EndpointDescriptor,
  type HostMemory,
  type OneSided,
  type OneSidedPeer,
  type RegisteredRegion,
  type RegisterRegionOptions,
} from '@ckpt/contract'
import { openDevice, type RdmaDevice, type RdmaMemoryRegion } from '@ckpt/rdma-core-bindings'
import { native } from '../addon.ts'
import { LocalMemories } from '../registrations.ts'
import { nicName } from './choose.ts'
import { BootstrapClient } from './client.ts'
import { Lanes } from './lanes.ts'
import { registerRange } from './memories.ts'
import { RDMA_PROTOCOL, type ResolvedRegion } from './messages.ts'
import { settingsOf, type RdmaEndpointOptions, type RdmaSettings } from './options.ts'
import { RdmaPeer } from './peer.ts'
import { BootstrapServer } from './server.ts'

/** Maximum requests in flight on all queue pairs of a NIC together. */
const COMPLETIONS = 2 ** 16
/** Number of keys of closed regions that are distinguished from unknown ones. */
const REMEMBERED = 2 ** 16

/**
 * Creates an endpoint whose regions peers read and write by RDMA, over reliable connections. Peers agree with it on queue pairs
 * over TCP, where both prove that they know the secret; after that only the devices serve them. Data in transit is not
 * encrypted.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the option, `NATIVE_FAILURE` for a device that cannot be opened or an address
 * that cannot be listened on, `ADDON_UNAVAILABLE`.
 */
export async function createRdmaEndpoint(options: RdmaEndpointOptions): Promise<RdmaOneSided> {
  const settings = settingsOf(options)
  const devices: RdmaDevice[] = []
  try {
    for (const nic of settings.nics) {
      // Ports of one device share it.
      const same = settings.nics.findIndex(({ device }) => device === nic.device)
      devices.push(devices[same] ?? (await native(() => openDevice(nic.device, { completions: COMPLETIONS }))))
    }
    const endpoint = new RdmaOneSided(settings, devices)
    await endpoint.listen()
    return endpoint
  } catch (error) {
    await Promise.allSettled([...new Set(devices)].map((device) => device.close()))
    throw error
  }
}

/** See {@link createRdmaEndpoint}. */
export class RdmaOneSided implements OneSided {
  readonly kind = 'rdma'
  readonly #id = randomBytes(16).toString('hex')
  readonly #settings: RdmaSettings
  readonly #devices: readonly RdmaDevice[]
  readonly #server: BootstrapServer
  readonly #memories: LocalMemories<RdmaMemoryRegion>
  readonly #regions = new Map<string, ResolvedRegion>()
  /** Most recently closed ones, oldest first. */
  readonly #closedKeys = new Set<string>()
  readonly #open = new Map<string, RegisteredRegion>()
  readonly #peers = new Set<RdmaPeer>()
  #addresses: readonly string[] = []
  #closed: Promise<void> | undefined

  /** @internal Use {@link createRdmaEndpoint}. */
  constructor(settings: RdmaSettings, devices: readonly RdmaDevice[]) {
    this.#settings = settings
    this.#devices = devices
    this.#memories = new LocalMemories((memory) => registerRange(devices, memory, 0, memory.bytes, { localWrite: true }))
    this.#server = new BootstrapServer({ id: this.#id, settings, devices, regionOf: (key) => this.#regionOf(key) })
  }

  /** @internal */
  async listen(): Promise<void> {
    const port = await this.#server.listen(this.#settings.listen)
    this.#addresses = this.#settings.advertise.map((address) => address.replace(/:0$/, `:${port}`))
  }

  get descriptor(): EndpointDescriptor {
    const { nics } = this.#settings
    return {
      kind: this.kind,
      protocol: RDMA_PROTOCOL,
      id: this.#id,
      addresses: this.#addresses,
      nics: nics.map((nic) => `${hostname()}/${nicName(nic)}`),
      details: { linkLayers: nics.map(({ linkLayer }) => linkLayer) },
    }
  }

  /** Number of connected peers. */
  get connections(): number {
    return this.#server.connections
  }

  async register(
    memory: HostMemory,
    { offset = 0, bytes = memory.bytes - offset, writable = false }: RegisterRegionOptions = {},
  ): Promise<RegisteredRegion> {
    this.#assertOpen()
    const access = { localWrite: writable, remoteRead: true, remoteWrite: writable }
    const regions = await registerRange(this.#devices, memory, offset, bytes, access)
    const key = randomBytes(16).toString('hex')
    const remoteKeys = regions.map(({ remoteKey }) => remoteKey)
    this.#regions.set(key, { address: String(regions[0]!.address), bytes, remoteKeys })
    let closed: Promise<void> | undefined
    const close = async (): Promise<void> => {
      this.#open.delete(key)
      this.#regions.delete(key)
      this.#closedKeys.add(key)
      for (const old of this.#closedKeys) if (this.#closedKeys.size > REMEMBERED) this.#closedKeys.delete(old)
      this.#server.announceClosed(key)
      // The device refuses requests in flight, and releases the memory.
      await Promise.all(regions.map((region) => native(() => region.close())))
    }
    const registered: RegisteredRegion = { descriptor: { key, bytes }, close: () => (closed ??= close()) }
    this.#open.set(key, registered)
    if (this.#closed === undefined) return registered
    await registered.close()
    throw this.#closedError()
  }

  async connect(peer: EndpointDescriptor, options: ConnectPeerOptions): Promise<OneSidedPeer> {
    this.#assertOpen()
    if (peer.kind !== this.kind) {
      const text = `endpoint ${peer.id} is reached by ${peer.kind}, not by rdma`
      throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'kind' } })
    }
    const laneOptions = { settings: this.#settings, devices: this.#devices }
    const started = performance.now()
    const client = await BootstrapClient.connect(peer, options)
    try {
      const lanes = new Lanes(client, peer, laneOptions)
      const connected = new RdmaPeer(peer, client, lanes, {
        ...laneOptions,
        pieceBytes: this.#settings.pieceBytes,
        memories: this.#memories,
        onClose: (one) => this.#peers.delete(one),
      })
      this.#peers.add(connected)
      await lanes.open(Math.max(1, options.timeoutMs - (performance.now() - started)))
      if (this.#closed === undefined) return connected
      await connected.close()
      throw this.#closedError()
    } catch (error) {
      client.close()
      throw error
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    await Promise.all([...this.#peers].map((peer) => peer.close()))
    await this.#server.close()
    await Promise.all([...this.#open.values()].map((region) => region.close()))
    await this.#memories.close()
    await Promise.all([...new Set(this.#devices)].map((device) => native(() => device.close())))
  }

  #regionOf(key: string): ResolvedRegion | 'closed' | undefined {
    return this.#regions.get(key) ?? (this.#closedKeys.has(key) ? 'closed' : undefined)
  }

  #assertOpen(): void {
    if (this.#closed !== undefined) throw this.#closedError()
  }

  #closedError(): CkptError {
    return new CkptError('INVALID_STATE', `endpoint ${this.#id} is closed`)
  }
}
