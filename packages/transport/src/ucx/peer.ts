import {
  CkptError,
  type EndpointDescriptor,
  type HostMemory,
  type OneSidedPeer,
  type OneSidedRequest,
  type TransferStats,
} from '@ckpt/contract'
import { transfer, type UcxConnection, type UcxRegion } from '@ckpt/native-ucx'
import { fromNative, native } from '../addon.ts'
import { checkRanges, refused } from '../refusals.ts'
import type { UcxConversation } from './client.ts'
import type { ResolvedRegion } from './messages.ts'

/** Parts that a peer uses besides its own conversation. */
export interface UcxPeerOptions {
  readonly pieceBytes: number
  readonly depth: number
  readonly regionOf: (memory: HostMemory) => Promise<UcxRegion>
  readonly onClose: (peer: UcxPeer) => void
}

/** Time for the owner's answer that it knows of a released region. */
const RELEASE_MS = 30_000

/** A batch that is running, and the keys of the regions that it uses. */
interface Running {
  readonly keys: ReadonlySet<string>
  readonly stop: AbortController
  readonly ended: Promise<unknown>
}

/** A connection to a different UCX endpoint. */
export class UcxPeer implements OneSidedPeer {
  readonly descriptor: EndpointDescriptor
  /** Transports that UCX uses for it, each with its device, such as `rc_mlx5/mlx5_0:1`. */
  readonly transports: readonly string[]
  readonly #client: UcxConversation
  readonly #connection: UcxConnection
  readonly #options: UcxPeerOptions
  readonly #regions = new Map<string, ResolvedRegion | 'closed'>()
  readonly #running = new Set<Running>()
  #end: CkptError | undefined
  #closed: Promise<void> | undefined

  constructor(descriptor: EndpointDescriptor, client: UcxConversation, connection: UcxConnection, options: UcxPeerOptions) {
    this.descriptor = descriptor
    this.transports = connection.transports
    this.#client = client
    this.#connection = connection
    this.#options = options
    client.onClosedKeys = (keys) => void this.#release(keys).catch(() => undefined)
    client.onLost = (error) => void this.#lose(error)
    if (client.lost !== undefined) void this.#lose(client.lost)
  }

  get alive(): boolean {
    return this.#end === undefined && this.#connection.alive
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

  async #run(direction: 'read' | 'write', request: OneSidedRequest): Promise<TransferStats> {
    const started = performance.now()
    const { signal, memories, regions: asked } = request
    if (signal?.aborted) throw this.#aborted(signal)
    const regions = await this.#resolve(request)
    checkRanges(this.descriptor.id, request, regions)
    const readOnly = direction === 'write' ? regions.findIndex(({ writable }) => !writable) : -1
    if (readOnly >= 0) throw refused(this.descriptor.id, readOnly, 'it is not writable')
    // Checked first, because registering is what takes longest the first time.
    const local = await Promise.all(memories.map((memory) => this.#options.regionOf(memory)))
    // While the memories were registered, a region may have been closed.
    this.#refuseClosed(asked)
    this.#assertAlive()
    const stop = new AbortController()
    const moving = this.#move(direction, request, { regions, local, stop })
    const running: Running = { keys: new Set(asked.map(({ key }) => key)), stop, ended: moving.catch(() => undefined) }
    this.#running.add(running)
    try {
      return { bytes: await moving, milliseconds: performance.now() - started }
    } catch (error) {
      const failure = fromNative(error)
      this.#assertAlive()
      this.#refuseClosed(asked)
      if (signal?.aborted) throw this.#aborted(signal)
      const lost = CkptError.is(failure) ? failure.with({ peer: this.descriptor.id }) : failure
      // A failed request breaks the connection, as UCX's handling of failures requires.
      if (CkptError.is(lost, 'PEER_LOST')) await this.#lose(lost)
      throw lost
    } finally {
      this.#running.delete(running)
    }
  }

  async #move(
    direction: 'read' | 'write',
    { transfers, timeoutMs, signal, onProgress }: OneSidedRequest,
    parts: { regions: readonly ResolvedRegion[]; local: readonly UcxRegion[]; stop: AbortController },
  ): Promise<number> {
    const { regions, local, stop } = parts
    const { pieceBytes, depth } = this.#options
    return native(() =>
      transfer(direction, {
        connection: this.#connection,
        remotes: regions.map(({ address, bytes, remoteKey }) => ({
          address: BigInt(address),
          bytes,
          remoteKey: Buffer.from(remoteKey, 'base64'),
        })),
        local,
        transfers: transfers.columns,
        pieceBytes,
        depth,
        timeoutMs,
        signal: signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]),
        ...(onProgress && { onProgress }),
      }),
    )
  }

  /** Returns the locations of the request's regions; asked once per region. @throws CkptError `REGION_REFUSED`. */
  async #resolve({ regions, timeoutMs }: OneSidedRequest): Promise<ResolvedRegion[]> {
    this.#assertAlive()
    const unknown = regions.map(({ key }) => key).filter((key) => !this.#regions.has(key))
    if (unknown.length > 0) {
      const found = await this.#client.resolve(unknown, timeoutMs)
      found.forEach((region, index) => {
        const key = unknown[index]!
        if (region !== undefined && this.#regions.get(key) !== 'closed') this.#regions.set(key, region)
      })
    }
    this.#refuseClosed(regions)
    return regions.map(({ key }, index) => {
      const region = this.#regions.get(key)
      if (region !== undefined && region !== 'closed') return region
      throw refused(this.descriptor.id, index, 'its key is not known there')
    })
  }

  #refuseClosed(regions: readonly { readonly key: string }[]): void {
    const index = regions.findIndex(({ key }) => this.#regions.get(key) === 'closed')
    if (index >= 0) throw refused(this.descriptor.id, index, 'it has been closed', 'closed')
  }

  /** Ends the batches that use closed regions, and tells the owner when they have ended. */
  async #release(keys: readonly string[]): Promise<void> {
    for (const key of keys) this.#regions.set(key, 'closed')
    const using = [...this.#running].filter((running) => keys.some((key) => running.keys.has(key)))
    for (const { stop } of using) stop.abort()
    await Promise.all(using.map(({ ended }) => ended))
    await this.#client.release(keys, RELEASE_MS)
  }

  #assertAlive(): void {
    if (this.#end !== undefined) throw this.#end
  }

  #aborted(signal: AbortSignal): CkptError {
    return CkptError.from(signal.reason, 'ABORTED', `moving bytes of endpoint ${this.descriptor.id}`)
  }

  /** Ends the connection: running batches fail with `error`. */
  async #lose(error: CkptError): Promise<void> {
    if (this.#end !== undefined) return
    this.#end = error
    this.#connection.close()
    await Promise.all([...this.#running].map(({ ended }) => ended))
    this.#client.close()
    this.#options.onClose(this)
  }
}
