import {
  CkptError,
  type ConnectPeerOptions,
  type EndpointDescriptor,
  type OneSidedPeer,
  type OneSidedRequest,
  type TransferStats,
} from '@ckpt/contract'
import type { NativeCancellation, NativeTcpPeer } from '@ckpt/native-host'
import { onAbort } from '@ckpt/utils'
import { fromNative, hostAddon, native } from '../addon.ts'
import { nativeMemory } from '../host/memory.ts'
import type { TcpProtection } from './protection.ts'

/** Options of {@link connectTcp}. */
interface ConnectTcpOptions extends ConnectPeerOptions {
  readonly streams: number
  readonly protection: TcpProtection | undefined
  readonly onClose: (peer: TcpPeer) => void
}

/** Connects to a TCP endpoint; errors as for `OneSided.connect`. */
export async function connectTcp(descriptor: EndpointDescriptor, options: ConnectTcpOptions): Promise<TcpPeer> {
  const { kind, id, addresses } = descriptor
  if (kind !== 'tcp') {
    throw new CkptError('INVALID_ARGUMENT', `endpoint ${id} is reached by ${kind}, not by tcp`, { fields: { field: 'kind' } })
  }
  const { secret, streams, timeoutMs, protection, signal } = options
  const peer = await cancellable(signal, `connecting to endpoint ${addresses.join(', ')}`, (cancellation) =>
    native(() => hostAddon().connectTcpPeer(id, addresses, secret, streams, Math.ceil(timeoutMs), protection, cancellation)),
  )
  return new TcpPeer(descriptor, peer, options.onClose)
}

/** Connections to one TCP endpoint. */
export class TcpPeer implements OneSidedPeer {
  readonly descriptor: EndpointDescriptor
  readonly #native: NativeTcpPeer
  readonly #onClose: (peer: TcpPeer) => void
  #closed: Promise<void> | undefined

  constructor(descriptor: EndpointDescriptor, peer: NativeTcpPeer, onClose: (peer: TcpPeer) => void) {
    this.descriptor = descriptor
    this.#native = peer
    this.#onClose = onClose
  }

  /** Protection of the connections, as agreed by both sides. */
  get protection(): TcpProtection {
    return this.#native.protection
  }

  /**
   * Cipher that protects bytes of regions, and the library with its version that computes it; for people. Absent with `none`.
   */
  get cipher(): string | undefined {
    return this.#native.protection === 'none' ? undefined : this.#native.cipher
  }

  get alive(): boolean {
    return this.#closed === undefined && this.#native.alive()
  }

  async read({ regions, memories, transfers, timeoutMs, signal, onProgress }: OneSidedRequest): Promise<TransferStats> {
    const started = performance.now()
    const keys = regions.map((region) => region.key)
    const handles = memories.map(nativeMemory)
    const bytes = await cancellable(signal, 'a one-sided read', async (cancellation) => {
      try {
        return await this.#native.read(keys, handles, transfers.columns, Math.ceil(timeoutMs), onProgress, cancellation)
      } catch (error) {
        throw refusal(error)
      }
    })
    return { bytes, milliseconds: performance.now() - started }
  }

  close(): Promise<void> {
    this.#closed ??= this.#native.close().finally(() => this.#onClose(this))
    return this.#closed
  }
}

/** Returns a native error with its `index` as the field `region`. */
function refusal(error: unknown): unknown {
  const translated = fromNative(error)
  if (!CkptError.is(translated, 'REGION_REFUSED')) return translated
  const { peer, index, field } = translated.fields
  return new CkptError('REGION_REFUSED', translated.message, {
    cause: error,
    fields: { ...(peer !== undefined && { peer }), region: index, ...(field === 'closed' && { field }) },
  })
}

async function cancellable<T>(
  signal: AbortSignal | undefined,
  what: string,
  work: (cancellation: NativeCancellation) => Promise<T>,
): Promise<T> {
  const cancellation = hostAddon().newCancellation()
  const stopListening = onAbort(signal, () => cancellation.cancel())
  try {
    const result = await work(cancellation)
    // The operation may have finished before the cancellation was noticed: it still counts as an abort.
    signal?.throwIfAborted()
    return result
  } catch (error) {
    throw signal?.aborted && (CkptError.is(error, 'ABORTED') || error === signal.reason)
      ? CkptError.from(signal.reason, 'ABORTED', what)
      : error
  } finally {
    stopListening()
  }
}
