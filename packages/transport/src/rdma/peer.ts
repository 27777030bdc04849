import { CkptError, type EndpointDescriptor, type OneSidedPeer, type OneSidedRequest, type TransferStats } from '@ckpt/contract'
import { transfer, type RdmaDevice, type RdmaMemoryRegion } from '@ckpt/rdma-core-bindings'
import { fromNative } from '../addon.ts'
import { withDeadline } from '@ckpt/utils'
import type { LocalMemories } from '../registrations.ts'
import { checkRanges, refused } from '../refusals.ts'
import type { BootstrapClient } from './client.ts'
import type { LaneOptions, Lanes } from './lanes.ts'
import type { ResolvedRegion } from './messages.ts'

/** Parts that a peer uses besides its own conversation. */
export interface PeerOptions extends LaneOptions {
  readonly pieceBytes: number
  /** By device. */
  readonly memories: LocalMemories<RdmaMemoryRegion>
  readonly devices: readonly RdmaDevice[]
  readonly onClose: (peer: RdmaPeer) => void
}

/** Number of attempts for a batch that failures of others broke: it may read the same bytes twice. */
const ATTEMPTS = 4

type Direction = 'read' | 'write'

/** A connection to a different RDMA endpoint. */
export class RdmaPeer implements OneSidedPeer {
  readonly descriptor: EndpointDescriptor
  readonly #client: BootstrapClient
  readonly #options: PeerOptions
  readonly #lanes: Lanes
  readonly #regions = new Map<string, ResolvedRegion | 'closed'>()
  #end: CkptError | undefined
  #closed: Promise<void> | undefined

  constructor(descriptor: EndpointDescriptor, client: BootstrapClient, lanes: Lanes, options: PeerOptions) {
    this.descriptor = descriptor
    this.#client = client
    this.#lanes = lanes
    this.#options = options
    client.onClosedKeys = (keys) => keys.forEach((key) => this.#regions.set(key, 'closed'))
    client.onLost = (error) => void this.#lose(error)
    if (client.lost !== undefined) void this.#lose(client.lost)
  }

  get alive(): boolean {
    return this.#end === undefined
  }

  read(request: OneSidedRequest): Promise<TransferStats> {
    return this.#run('read', request)
  }

  write(request: OneSidedRequest): Promise<TransferStats> {
    return this.#run('write', request)
  }

  close(): Promise<void> {
    this.#closed ??= this.#lose(new CkptError('ABORTED', `the connection to endpoint ${this.descriptor.id} was closed`))
    return this.#closed
  }

  async #run(direction: Direction, request: OneSidedRequest): Promise<TransferStats> {
    const start = performance.now()
    const { signal } = request
    for (let attempt = 1; ; attempt++) {
      if (signal?.aborted) throw CkptError.from(signal.reason, 'ABORTED', `moving bytes of endpoint ${this.descriptor.id}`)
      this.#assertAlive()
      const generation = this.#lanes.generation
      try {
        const bytes = await this.#attempt(direction, request)
        return { bytes, milliseconds: performance.now() - start }
      } catch (error) {
        const failure = this.#failureOf(fromNative(error))
        if (this.#end !== undefined) throw this.#end
        const innocent = CkptError.is(failure, 'PEER_LOST') && failure.fields['status'] === 'IBV_WC_WR_FLUSH_ERR'
        if (!innocent && CkptError.is(failure, 'PEER_LOST')) await this.#lose(failure)
        // A refused request breaks its queue pair: the next batch, and those that were running on it, need new ones.
        if (innocent || CkptError.is(failure, 'REGION_REFUSED')) this.#lanes.retire(generation)
        if (!innocent || attempt === ATTEMPTS) throw failure
      }
    }
  }

  async #attempt(direction: Direction, request: OneSidedRequest): Promise<number> {
    const { memories, transfers, timeoutMs, signal, onProgress } = request
    const regions = await this.#resolve(request)
    checkRanges(this.descriptor.id, request, regions)
    // Checked first, because registering is what takes longest the first time.
    const local = await Promise.all(memories.map((memory) => this.#options.memories.regionsOf(memory)))
    const lanes = await withDeadline(this.#lanes.open(timeoutMs), {
      what: `queue pairs to ${this.descriptor.id}`,
      timeoutMs,
      signal,
    })
    return transfer(direction, {
      lanes: lanes.map(({ pair, own, peers }) => ({
        pair,
        local: local.map((byDevice) => byDevice[own]!),
        remoteKeys: regions.map(({ remoteKeys }) => remoteKeys[peers]!),
      })),
      remotes: regions.map(({ address, bytes }) => ({ address: BigInt(address), bytes })),
      transfers: transfers.columns,
      pieceBytes: this.#options.pieceBytes,
      timeoutMs,
      ...(signal && { signal }),
      ...(onProgress && { onProgress }),
    })
  }

  /** Returns the locations of the request's regions; asked once per region. @throws CkptError `REGION_REFUSED`. */
  async #resolve({ regions, timeoutMs }: OneSidedRequest): Promise<ResolvedRegion[]> {
    const unknown = regions.map(({ key }) => key).filter((key) => !this.#regions.has(key))
    if (unknown.length > 0) {
      const found = await this.#client.resolve(unknown, timeoutMs)
      found.forEach((region, index) => region && this.#regions.set(unknown[index]!, region))
    }
    return regions.map(({ key }, index) => {
      const region = this.#regions.get(key)
      if (region === 'closed') throw refused(this.descriptor.id, index, 'it has been closed', 'closed')
      if (region !== undefined) return region
      throw refused(this.descriptor.id, index, 'its key is not known there')
    })
  }

  #failureOf(error: unknown): unknown {
    if (!CkptError.is(error)) return error
    // Maps an index of the batch's regions, as the native side counts them, to one of the request's.
    return error.with({ peer: this.descriptor.id })
  }

  #assertAlive(): void {
    if (this.#end !== undefined) throw this.#end
  }

  /** Ends the connection: running batches fail with `error`. */
  async #lose(error: CkptError): Promise<void> {
    if (this.#end !== undefined) return
    this.#end = error
    this.#client.close()
    await this.#lanes.close()
    this.#options.onClose(this)
  }
}
