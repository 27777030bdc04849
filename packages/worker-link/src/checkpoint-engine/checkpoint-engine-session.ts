import {
  CkptError,
  requireSocketDescriptors,
  startReminders,
  type RingHandle,
  type RingTensor,
  type Waiting,
  type UpdateSession,
  type WorkerGreeting,
} from '@ckpt/contract'
import { Dealer } from 'zeromq'
import { withDeadline } from '@ckpt/utils'
import { abortPayload, bucketPayload, donePayload, ringPayload } from './payloads.ts'
import { CounterFile } from './reference-counter.ts'

interface Pending {
  readonly what: string
  readonly sentAt: number
  readonly resolve: (reloadMs: number) => void
  readonly reject: (error: CkptError) => void
}

/** A traceback is text of a few kilobytes; a worker sends nothing else. */
const MAX_ANSWER_BYTES = 16 * 2 ** 20
/** Time in milliseconds for the last answer of a lost worker to arrive. */
const LAST_ANSWER_MS = 250
/** Maximum time for telling the worker, after this rank is done with it, that its update is aborted. */
const FAREWELL_MS = 10_000

export interface CheckpointEngineSessionOptions {
  readonly rank: number
  /** ZeroMQ address to bind. */
  readonly address: string
  /** Maximum time for the worker to send an answer while it owes one. */
  readonly timeoutMs: number
  /** Called before the worker receives the first tensors. */
  readonly onGiven?: () => void
  /** Called with waits that last longer than a second. */
  readonly onWaiting?: (waiting: Waiting) => void
}

/**
 * One rank's connection to a worker that runs checkpoint-engine's stock `update_weights_from_ipc` (its release 0.4.2): pickles
 * go to the worker, raw bytes come back, empty ones on success, otherwise a traceback. Nothing that comes back is ever
 * unpickled.
 *
 * The worker has a REP socket. This side frames messages like a REQ socket, but is a DEALER: the worker may have several
 * buckets at a time, which it processes one by one and answers in order, and an abort can be sent while it works. The first
 * failure is final.
 */
export class CheckpointEngineSession implements UpdateSession {
  readonly checksDigests = false
  readonly #socket = new Dealer({
    linger: 1000,
    sendHighWaterMark: 0,
    receiveHighWaterMark: 0,
    maxMessageSize: MAX_ANSWER_BYTES,
  })
  readonly #options: CheckpointEngineSessionOptions
  readonly #pending: Pending[] = []
  #state: 'new' | 'attaching' | 'attached' | 'released' | 'ended' = 'new'
  #failure: CkptError | undefined
  #attached: Promise<void> = Promise.resolve()
  #sending: Promise<void> = Promise.resolve()
  #answeredAt = 0
  #connected = false
  #calm: () => void = () => undefined
  #watchdog: NodeJS.Timeout | undefined
  #counter: CounterFile | undefined
  #farewell: Promise<void> | undefined
  /** Answers that nobody waits for any more. */
  #afterFailure: (() => void) | undefined

  private constructor(options: CheckpointEngineSessionOptions) {
    this.#options = options
  }

  /** Binds the socket. @throws CkptError `ENGINE_UNREACHABLE` if the address cannot be bound. */
  static async bind(options: CheckpointEngineSessionOptions): Promise<CheckpointEngineSession> {
    requireSocketDescriptors(`the socket for the engine worker of rank ${options.rank}`)
    const session = new CheckpointEngineSession(options)
    try {
      session.#watchConnections()
      await session.#socket.bind(options.address)
    } catch (error) {
      session.#socket.close()
      throw CkptError.from(error, 'ENGINE_UNREACHABLE', `cannot bind ${options.address}`, { rank: options.rank })
    }
    void session.#receive()
    return session
  }

  /** Reminds of a worker that does not connect; these workers present no token. */
  admit(): void {
    const { rank, onWaiting } = this.#options
    const what = this.#missing
    if (onWaiting && !this.#connected) this.#calm = startReminders((sinceMs) => onWaiting({ what, sinceMs, rank }))
  }

  /** Returns nothing: these workers do not greet. */
  greeted(): Promise<WorkerGreeting> {
    return Promise.resolve({ protocol: 0, state: undefined, routes: undefined })
  }

  /** Hands the worker the ring once it connects. Requests made before that wait for it; its failure is final. */
  attach(ring: RingHandle, _totals: { tensors: number; bytes: number }, signal: AbortSignal): Promise<void> {
    this.#attached = this.#attach(ring, signal)
    this.#attached.catch((error: unknown) => this.fail(CkptError.from(error, 'ENGINE_UNREACHABLE')))
    return this.#attached
  }

  async #attach(ring: RingHandle, signal: AbortSignal): Promise<void> {
    this.#counter = new CounterFile()
    const payload = ringPayload(ring, this.#counter)
    const { timeoutMs, rank } = this.#options
    this.#state = 'attaching'
    await withDeadline(this.#request(payload, 'attach'), {
      what: `engine worker of rank ${rank} to take the ring`,
      timeoutMs,
      signal,
      code: 'ENGINE_UNREACHABLE',
    })
    this.#state = 'attached'
  }

  async load(bucket: number, tensors: readonly RingTensor[]): Promise<{ reloadMs: number }> {
    await this.#attached
    this.#options.onGiven?.()
    return { reloadMs: await this.#request(bucketPayload(tensors), `bucket ${bucket}`) }
  }

  /** Sends the first `None`: the worker has loaded everything and releases the ring. */
  async release(): Promise<void> {
    await this.#attached
    await this.#request(donePayload(), 'release')
    this.#state = 'released'
  }

  /** Sends the second `None`: the worker runs its post hook. In this protocol its state has no version. */
  async commit(): Promise<void> {
    await this.#request(donePayload(), 'commit')
    this.#state = 'ended'
  }

  /**
   * Makes the worker raise `reason`. There is no answer to that. The worker reads it after its current work, or when it
   * connects, so the socket stays open until then, even after `close`.
   */
  abort(reason: string): Promise<void> {
    if (this.#state !== 'ended' && !this.#socket.closed) this.#farewell ??= this.#sayFarewell(reason)
    return Promise.resolve()
  }

  /** Fails all current and later waits with `error`. */
  fail(error: CkptError): void {
    this.#failure ??= error
    this.#calm()
    for (const pending of this.#pending) pending.reject(error)
    clearTimeout(this.#watchdog)
  }

  close(): void {
    this.fail(new CkptError('INVALID_STATE', `the session of rank ${this.#options.rank} is closed`))
    void (this.#farewell ?? Promise.resolve()).then(() => {
      if (!this.#socket.closed) this.#socket.close()
      this.#counter?.close()
    })
  }

  async #sayFarewell(reason: string): Promise<void> {
    const farewell = async () => {
      // A worker that has not taken the ring answers the first message with its error, then waits for one more message.
      const owesAttach = this.#state === 'new' || this.#state === 'attaching'
      await this.#send(abortPayload(reason))
      if (!owesAttach) return
      await new Promise<void>((resolve) => (this.#afterFailure = resolve))
      await this.#send(abortPayload(reason))
    }
    const timeoutMs = Math.min(FAREWELL_MS, this.#options.timeoutMs)
    await withDeadline(farewell(), { what: 'farewell', timeoutMs }).catch(() => undefined)
  }

  async #request(payload: Buffer, what: string): Promise<number> {
    if (this.#failure) throw this.#failure
    const answer = new Promise<number>((resolve, reject) =>
      this.#pending.push({ what, sentAt: performance.now(), resolve, reject }),
    )
    answer.catch(() => undefined)
    this.#watch()
    this.#send(payload).catch((error: unknown) => {
      if (!this.#socket.closed) this.fail(CkptError.from(error, 'ENGINE_PROTOCOL', `sending ${what}`))
    })
    return answer
  }

  /** A DEALER allows one send at a time; the empty frame is the one a REQ socket puts before its message. */
  #send(payload: Buffer): Promise<void> {
    this.#sending = this.#sending.then(async () => {
      if (!this.#socket.closed) await this.#socket.send(['', payload])
    })
    return this.#sending
  }

  /** While answers are owed, one must come within the timeout. */
  #watch(): void {
    clearTimeout(this.#watchdog)
    const [oldest] = this.#pending
    if (oldest === undefined || this.#failure) return
    const { rank, timeoutMs } = this.#options
    this.#watchdog = setTimeout(() => {
      const text = this.#connected
        ? `engine worker of rank ${rank} did not answer ${oldest.what} within ${timeoutMs} ms`
        : `waited ${timeoutMs} ms for ${this.#missing}`
      this.fail(new CkptError(this.#connected ? 'ENGINE_WORKER_LOST' : 'ENGINE_UNREACHABLE', text, { fields: { rank } }))
    }, timeoutMs)
  }

  get #missing(): string {
    const { rank, address } = this.#options
    return `engine worker of rank ${rank} to connect to ${address} (its process must be told to update, and must run in the network namespace of this rank)`
  }

  #watchConnections(): void {
    const { rank } = this.#options
    const peer = `engine worker of rank ${rank}`
    this.#socket.events.on('accept', () => {
      if (this.#state === 'ended') {
        // An engine with a second model (SGLang's draft model) connects again, and would wait forever.
        this.#state = 'new'
        this.#farewell ??= this.#sayFarewell(
          'the weights were sent to a different model of this engine: a session has one receiver',
        )
      } else if (this.#connected) {
        this.fail(new CkptError('ENGINE_PROTOCOL', `a second worker connected to rank ${rank}`, { fields: { rank, peer } }))
      }
      this.#connected = true
      this.#calm()
    })
    this.#socket.events.on('disconnect', () => {
      if (this.#state === 'ended') return
      setTimeout(() => {
        if (this.#state === 'ended') return
        const at = this.#pending[0]?.what ?? 'the next bucket'
        this.fail(new CkptError('ENGINE_WORKER_LOST', `${peer} disconnected at ${at}`, { fields: { rank, peer } }))
      }, LAST_ANSWER_MS).unref()
    })
  }

  async #receive(): Promise<void> {
    const { rank } = this.#options
    const peer = `engine worker of rank ${rank}`
    try {
      for await (const frames of this.#socket) {
        const [delimiter, answer] = frames
        if (frames.length !== 2 || delimiter!.length !== 0) {
          const text = `${peer} sent ${frames.length} frames that are not an answer`
          throw new CkptError('ENGINE_PROTOCOL', text, { fields: { rank, peer } })
        }
        this.#handle(answer!, peer)
      }
    } catch (error) {
      if (!this.#socket.closed) this.fail(CkptError.from(error, 'ENGINE_PROTOCOL', peer))
    }
  }

  #handle(answer: Buffer, peer: string): void {
    const { rank } = this.#options
    const pending = this.#pending.shift()
    this.#watch()
    if (pending === undefined) {
      this.#afterFailure?.()
      return
    }
    const now = performance.now()
    const reloadMs = now - Math.max(pending.sentAt, this.#answeredAt)
    this.#answeredAt = now
    if (answer.length === 0) {
      pending.resolve(reloadMs)
      return
    }
    const traceback = answer.toString()
    const summary = traceback.trimEnd().split('\n').at(-1) ?? ''
    const failure = new CkptError('ENGINE_WORKER_ERROR', `${peer} failed at ${pending.what}: ${summary}`, {
      fields: { rank, traceback },
    })
    pending.reject(failure)
    this.fail(failure)
  }
}
