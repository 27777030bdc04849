import { setTimeout as sleep } from 'node:timers/promises'
import { ConversationServer, type Session } from '../bootstrap/server.ts'
import { DIALECT, type Reply, type Request, type ResolvedRegion } from './messages.ts'

/** Time for a peer to end its batches on a closed region; then its connection is closed. */
const RELEASE_MS = 30_000
/**
 * Time that a closed region of a peer that left without a word stays mapped: UCX may still be answering requests of that peer,
 * which it notices in a second or two (`UCX_KEEPALIVE_INTERVAL`).
 */
const GRACE_MS = 5000

/** Parts of the endpoint that the server uses. */
export interface Served {
  readonly id: string
  readonly secret: string
  /** Address of the worker, in base64. */
  readonly address: string
  readonly version: string
  regionOf(key: string): ResolvedRegion | 'closed' | undefined
}

/**
 * Peers of an endpoint, and which of its regions each knows. UCX does not check what a peer reads (it may do so with memory
 * that it copies itself), so a region is closed only when each of its readers has said that it no longer uses it.
 */
export class Readers {
  readonly #sessions = new Set<Reader>()
  readonly #over = new AbortController()
  readonly #server: ConversationServer<Request, Reply>

  constructor(served: Served) {
    this.#server = new ConversationServer<Request, Reply>({
      dialect: DIALECT,
      id: served.id,
      secret: served.secret,
      open: (hangUp) => {
        const reader = new Reader(served, hangUp, this.#over.signal)
        reader.gone.then(() => this.#sessions.delete(reader)).catch(() => undefined)
        this.#sessions.add(reader)
        return reader
      },
    })
  }

  /** @returns the port. @throws CkptError `NATIVE_FAILURE` naming the address. */
  listen(address: string): Promise<number> {
    return this.#server.listen(address)
  }

  get connections(): number {
    return this.#server.connections
  }

  /** Notifies peers that a key is no longer valid. Resolves when none of them uses its region any more. */
  async release(key: string): Promise<void> {
    const left = [...this.#sessions].map((reader) => reader.release(key))
    this.#server.announceClosed(key)
    await Promise.all(left)
  }

  /** After this nobody is waited for any more. */
  close(): Promise<void> {
    this.#over.abort()
    return this.#server.close()
  }
}

/** One peer. */
class Reader implements Session<Request, Reply> {
  /** Resolves when UCX no longer answers requests of a peer that has left. */
  readonly gone: Promise<void>
  readonly #served: Served
  readonly #hangUp: () => void
  readonly #known = new Set<string>()
  readonly #waiting = new Map<string, () => void>()
  #left!: () => void

  constructor(served: Served, hangUp: () => void, over: AbortSignal) {
    this.#served = served
    this.#hangUp = hangUp
    this.gone = new Promise<void>((resolve) => (this.#left = resolve)).then(() =>
      over.aborted || this.#known.size === 0
        ? undefined
        : sleep(GRACE_MS, undefined, { signal: over, ref: this.#waiting.size > 0 }).catch(() => undefined),
    )
  }

  answer(message: Request): ReturnType<Session<Request, Reply>['answer']> {
    switch (message.type) {
      case 'open':
        return { type: 'opened', address: this.#served.address, version: this.#served.version }
      case 'resolve':
        return { type: 'resolved', regions: message.keys.map((key) => this.#locate(key)) }
      case 'released':
        for (const key of message.keys) this.#waiting.get(key)?.()
        return { type: 'noted' }
    }
  }

  end(): Promise<void> {
    this.#left()
    return Promise.resolve()
  }

  /** Resolves when the peer no longer uses the region of a key. */
  async release(key: string): Promise<void> {
    if (!this.#known.has(key)) return
    const timer = setTimeout(this.#hangUp, RELEASE_MS)
    await Promise.race([new Promise<void>((resolve) => this.#waiting.set(key, resolve)), this.gone])
    clearTimeout(timer)
    this.#waiting.delete(key)
    this.#known.delete(key)
  }

  #locate(key: string): ResolvedRegion | 'closed' | null {
    const region = this.#served.regionOf(key)
    if (region === undefined) return null
    if (region !== 'closed') this.#known.add(key)
    return region
  }
}
