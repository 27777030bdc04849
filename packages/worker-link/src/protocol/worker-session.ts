import { rmSync } from 'node:fs'
import {
  CkptError,
  requireSocketDescriptors,
  startReminders,
  type Recording,
  type RingHandle,
  type RingTensor,
  type TensorForm,
  type DType,
  type StorageHandle,
  type Waiting,
  type RecordingSession,
  type WorkerGreeting,
} from '@ckpt/contract'
import { Dealer } from 'zeromq'
import { sameSecret, withDeadline } from '@ckpt/utils'
import {
  OLDEST_WORKER_PROTOCOL,
  WORKER_PROTOCOL,
  decodeWorkerMessage,
  encodeMessage,
  tensorFrame,
  type RankRequest,
  type WorkerMessage,
} from './messages.ts'
import { watchProcess } from './process-watch.ts'
import { checkRecording } from './recording-check.ts'

const IPC = 'ipc://'
/** The longest message of a worker is a recording of some hundred thousand tensors. */
const MAX_MESSAGE_BYTES = 128 * 2 ** 20
/** Time in milliseconds for reading what a worker sent before it died. */
const LAST_WORD_MS = 100

type Ok = Extract<WorkerMessage, { type: 'ok' }>

interface Pending {
  readonly what: string
  readonly resolve: (answer: Ok) => void
  readonly reject: (error: CkptError) => void
}

/** Types of worker errors that are codes of ours. */
const OWN_CODES = ['DIGEST_MISMATCH', 'ROUTES_STALE', 'CHECKPOINT_MALFORMED'] as const

export interface WorkerSessionOptions {
  readonly rank: number
  /** ZeroMQ address to bind, `ipc://…`; its directory must be private to the user. */
  readonly address: string
  readonly epoch: number
  /** Maximum time for the worker to send an answer while it owes one. */
  readonly timeoutMs: number
  /** Called before the worker receives the first message that changes its parameters. */
  readonly onGiven?: () => void
  /** Called with waits that last longer than a second. */
  readonly onWaiting?: (waiting: Waiting) => void
}

/**
 * One rank's connection to its engine worker for one update: binds, waits for `hello`, then sends and matches answers by sequence
 * number. The first failure is final: every later call fails with the same error.
 */
export class WorkerSession implements RecordingSession {
  readonly checksDigests = true
  readonly #socket = new Dealer({ linger: 0, sendHighWaterMark: 0, receiveHighWaterMark: 0, maxMessageSize: MAX_MESSAGE_BYTES })
  readonly #options: WorkerSessionOptions
  readonly #pending = new Map<number, Pending>()
  readonly #hello: Promise<WorkerGreeting>
  #greet!: { resolve: (greeting: WorkerGreeting) => void; reject: (error: CkptError) => void }
  #token = ''
  #admit!: () => void
  /** Resolves when the worker's token is known: what the worker sends before that waits in the socket. */
  readonly #admitted = new Promise<void>((resolve) => (this.#admit = resolve))
  #failure: CkptError | undefined
  #sending: Promise<void> = Promise.resolve()
  #sequence = 0
  #watchdog: NodeJS.Timeout | undefined
  #greeted = false
  #calm: () => void = () => undefined
  /** Sequence number of the commit, once it was sent. */
  #commit: number | undefined
  #committed = false
  #onCommitted: () => void = () => undefined
  #attached: Promise<void> = Promise.resolve()
  #unwatch: () => void = () => undefined
  #attachSent: Promise<void> = Promise.resolve()

  private constructor(options: WorkerSessionOptions) {
    this.#options = options
    this.#hello = new Promise((resolve, reject) => (this.#greet = { resolve, reject }))
    this.#hello.catch(() => undefined)
  }

  /** Binds the socket: a worker can connect from now on, and is heard once {@link admit} was called. @throws CkptError `ENGINE_UNREACHABLE` if the address cannot be bound. */
  static async bind(options: WorkerSessionOptions): Promise<WorkerSession> {
    requireSocketDescriptors(`the socket for the engine worker of rank ${options.rank}`)
    const session = new WorkerSession(options)
    try {
      await session.#socket.bind(options.address)
    } catch (error) {
      session.#socket.close()
      throw CkptError.from(error, 'ENGINE_UNREACHABLE', `cannot bind ${options.address}`, { rank: options.rank })
    }
    void session.#receive()
    return session
  }

  admit(token: string): void {
    this.#token = token
    this.#remind(this.#missing)
    this.#admit()
  }

  /** Waits for the worker's greeting. @throws CkptError `ENGINE_UNREACHABLE`. */
  async greeted(signal: AbortSignal): Promise<WorkerGreeting> {
    const { timeoutMs } = this.#options
    return withDeadline(this.#hello, { what: this.#missing, timeoutMs, signal, code: 'ENGINE_UNREACHABLE' })
  }

  get #missing(): string {
    const { rank, address } = this.#options
    return `engine worker of rank ${rank} to connect to ${address} (its process must be told to update, and must see that directory as the same user: a volume that both containers mount)`
  }

  #remind(what: string): void {
    this.#calm()
    const { rank, onWaiting } = this.#options
    this.#calm = onWaiting ? startReminders((sinceMs) => onWaiting({ what, sinceMs, rank })) : () => undefined
  }

  /**
   * Hands the worker the ring (or none if no bucket follows) as soon as it has greeted. Requests made before that wait for it;
   * its failure fails the session, and with it everything that waits.
   */
  attach(
    ring: RingHandle | null,
    totals: { tensors: number; bytes: number },
    signal: AbortSignal,
    record = false,
  ): Promise<void> {
    const sent = this.greeted(signal).then(() => {
      const answer = this.#request({ type: 'attach', token: this.#token, ring, ...totals, ...(record && { record }) }, 'attach')
      return { answer }
    })
    this.#attachSent = sent.then(() => undefined)
    this.#attachSent.catch(() => undefined)
    this.#attached = sent.then(({ answer }) => answer).then(() => undefined)
    this.#attached.catch((error: unknown) => this.fail(CkptError.from(error, 'ENGINE_UNREACHABLE')))
    return this.#attached
  }

  /** Returns the checked copies that the worker recorded, or the reason why there is no usable recording. */
  async routes(): Promise<Recording | string> {
    const { routes, reason } = await this.#request({ type: 'routes', token: this.#token }, 'routes')
    if (!routes) return reason ?? 'the worker has no recording'
    return checkRecording(routes) ?? routes
  }

  /**
   * Has the worker record what its loader would do with such tensors; returns the checked copies, or the reason why that is
   * impossible.
   */
  async rehearse(tensors: readonly TensorForm[]): Promise<Recording | string> {
    const forms = tensors.map(({ name, dtype, shape }): [string, DType, number[]] => [name, dtype, [...shape]])
    const { routes, reason } = await this.#request({ type: 'rehearse', token: this.#token, tensors: forms }, 'rehearse')
    if (!routes) return reason ?? 'the worker has no recording'
    return checkRecording(routes) ?? routes
  }

  /** Ends the session of a worker that was only to prepare. */
  async leave(): Promise<void> {
    await this.#request({ type: 'leave' }, 'leave')
  }

  /** Returns handles of the recording's storages, or the reason why there are none. */
  async storages(): Promise<readonly StorageHandle[] | string> {
    const answer = await this.#request({ type: 'storages', token: this.#token }, 'storages')
    return answer.storages ?? answer.reason ?? 'the worker shares no parameters'
  }

  /** Allows writes to the parameters from the answer on, until `release`. */
  async direct(routes: string, check: readonly string[] = []): Promise<void> {
    await this.#direct({ type: 'direct', routes, ...(check.length > 0 && { check: [...check] }) })
  }

  /** From the answer on, the worker copies tensors from the ring itself, as recorded; resolves to their number. */
  async replay(routes: string, check: readonly string[] = []): Promise<number> {
    const message = { type: 'direct', routes, replay: true, ...(check.length > 0 && { check: [...check] }) } as const
    const { replays = 0 } = await this.#direct(message)
    return replays
  }

  /** Sent right after the attach, without waiting for its answer: the worker handles one after the other. */
  async #direct(message: RankRequest): Promise<Ok> {
    await this.#attachSent
    this.#options.onGiven?.()
    const answer = this.#request(message, 'direct')
    // If the attach fails both do, and the attach's error is the one to throw.
    answer.catch(() => undefined)
    await this.#attached
    return answer
  }

  async load(bucket: number, tensors: readonly RingTensor[]): Promise<{ reloadMs: number }> {
    await this.#attached
    this.#options.onGiven?.()
    const answer = await this.#request({ type: 'bucket', bucket, tensors: tensors.map(tensorFrame) }, `bucket ${bucket}`)
    return { reloadMs: answer.reloadMs ?? 0 }
  }

  /** Tells the worker that all bytes have arrived: it finishes loading and unmaps the ring. */
  async release(): Promise<void> {
    await this.#attached
    await this.#request({ type: 'release' }, 'release')
  }

  /**
   * Returns sums of what the worker keeps of each route of a recording, by route, or the reason why it cannot compute them.
   * @throws CkptError `ENGINE_PROTOCOL` for a different number of sums.
   */
  async sums({ id, routes }: Recording): Promise<BigUint64Array | string> {
    const { sums, reason } = await this.#request({ type: 'sums', routes: id }, 'sums')
    if (reason !== undefined) return reason
    if (sums?.byteLength !== routes.length * 8) {
      const { rank } = this.#options
      const text = `engine worker of rank ${rank} answered with ${(sums?.byteLength ?? 0) / 8} sums for ${routes.length} routes`
      throw new CkptError('ENGINE_PROTOCOL', text, { fields: { rank, field: 'sums' } })
    }
    return new BigUint64Array(Uint8Array.from(sums).buffer)
  }

  /** Tells the worker to serve `version` from now on; the manifest's `digest` identifies its bytes. */
  async commit(version: string, digest: string): Promise<void> {
    await this.#request({ type: 'commit', version, digest }, 'commit')
  }

  /** Tells the worker, if still possible, that the update is aborted. Never throws. */
  async abort(reason: string): Promise<void> {
    if (!this.#greeted || this.#socket.closed || this.#failure?.code === 'ENGINE_WORKER_LOST') return
    if (this.#committed) return // its update is over, and it would not answer
    // An abort is sent even after a failure: the worker may be alive and waiting for the next bucket.
    this.#failure = undefined
    // A worker that was told to commit answers that, and then stops listening.
    const committed = new Promise<void>((resolve) => (this.#onCommitted = resolve))
    const answer = Promise.race([this.#request({ type: 'abort', reason }, 'abort'), committed])
    await withDeadline(answer, { what: 'abort', timeoutMs: Math.min(2000, this.#options.timeoutMs) }).catch(() => undefined)
  }

  /** Fails all current and later waits with `error`. */
  fail(error: CkptError): void {
    this.#failure ??= error
    this.#calm()
    this.#greet.reject(error)
    for (const pending of this.#pending.values()) pending.reject(error)
    this.#pending.clear()
    clearTimeout(this.#watchdog)
  }

  /** Closes the socket and removes its file; everything that still waits fails. */
  close(): void {
    this.#unwatch()
    this.fail(new CkptError('INVALID_STATE', `the session of rank ${this.#options.rank} is closed`))
    if (this.#socket.closed) return
    this.#socket.close()
    this.#admit()
    // ZeroMQ leaves the file: a process that updates for weeks would fill its directory.
    if (this.#options.address.startsWith(IPC)) rmSync(this.#options.address.slice(IPC.length), { force: true })
  }

  async #request(message: RankRequest, what: string): Promise<Ok> {
    if (this.#failure) throw this.#failure
    const seq = ++this.#sequence
    if (message.type === 'commit') this.#commit = seq
    const answer = new Promise<Ok>((resolve, reject) => this.#pending.set(seq, { what, resolve, reject }))
    answer.catch(() => undefined)
    const frame = encodeMessage({ ...message, seq, epoch: this.#options.epoch })
    this.#watch()
    // Not awaited: to a lost worker nothing is ever sent, and the request must fail with the session.
    this.#send(frame).catch((error: unknown) => {
      if (!this.#socket.closed) this.fail(CkptError.from(error, 'ENGINE_PROTOCOL', `sending ${what}`))
    })
    return answer
  }

  /** A DEALER allows one send at a time. */
  #send(frame: Buffer): Promise<void> {
    this.#sending = this.#sending.then(async () => {
      if (!this.#socket.closed) await this.#socket.send(frame)
    })
    return this.#sending
  }

  /** While answers are owed, one must come within the timeout. */
  #watch(): void {
    clearTimeout(this.#watchdog)
    this.#calm()
    const oldest = this.#pending.values().next().value
    if (oldest === undefined) return
    const { rank, timeoutMs } = this.#options
    this.#remind(`engine worker of rank ${rank} to answer ${oldest.what}`)
    this.#watchdog = setTimeout(() => {
      const text = `engine worker of rank ${rank} did not answer ${oldest.what} within ${timeoutMs} ms`
      this.fail(new CkptError('ENGINE_WORKER_LOST', text, { fields: { rank } }))
    }, timeoutMs)
  }

  async #receive(): Promise<void> {
    const peer = `engine worker of rank ${this.#options.rank}`
    await this.#admitted
    try {
      for await (const frames of this.#socket) {
        if (frames.length !== 1)
          throw new CkptError('ENGINE_PROTOCOL', `${peer} sent ${frames.length} frames`, { fields: { peer } })
        this.#handle(decodeWorkerMessage(frames[0]!, peer), peer)
      }
    } catch (error) {
      if (!this.#socket.closed) this.fail(CkptError.from(error, 'ENGINE_PROTOCOL', peer))
    }
  }

  /** Its connections may stay open for a long time. */
  #died(pid: number): void {
    const { rank } = this.#options
    const peer = `engine worker of rank ${rank}`
    const error = new CkptError('ENGINE_WORKER_LOST', `${peer} (process ${pid}) died`, { fields: { rank, peer } })
    setTimeout(() => this.fail(error), LAST_WORD_MS).unref()
  }

  /** Tells a worker with a wrong greeting why it is refused. */
  #refuse(error: CkptError): CkptError {
    const { epoch } = this.#options
    const refusal = { type: 'error', seq: 0, epoch, error: { type: error.code, message: error.message } } as const
    this.#send(encodeMessage(refusal)).catch(() => undefined) // it may have ended already
    return error
  }

  #handle(message: WorkerMessage, peer: string): void {
    const { rank } = this.#options
    if (message.type === 'hello') {
      if (this.#greeted)
        throw new CkptError('ENGINE_PROTOCOL', `a second worker greeted rank ${rank}`, { fields: { rank, peer } })
      if (message.protocol < OLDEST_WORKER_PROTOCOL || message.protocol > WORKER_PROTOCOL) {
        const text = `${peer} uses worker protocol ${message.protocol}, but this rank uses ${WORKER_PROTOCOL}`
        throw this.#refuse(new CkptError('ENGINE_PROTOCOL', text, { fields: { rank, peer, field: 'protocol' } }))
      }
      if (!sameSecret(message.token, this.#token)) {
        throw this.#refuse(new CkptError('ENGINE_UNAUTHORIZED', `${peer} presented a wrong token`, { fields: { rank, peer } }))
      }
      this.#greeted = true
      this.#calm()
      const { pid, process: mark, state, routes, rehearses = false } = message
      if (typeof mark === 'string') this.#unwatch = watchProcess(pid, mark, () => this.#died(pid))
      this.#greet.resolve({
        protocol: message.protocol,
        state,
        routes: routes ?? undefined,
        rehearses,
        ...(typeof mark === 'string' && { process: { pid, mark } }),
      })
      return
    }
    if (message.type === 'ok' && message.seq === this.#commit) {
      this.#committed = true
      this.#onCommitted()
    }
    const pending = this.#pending.get(message.seq)
    if (pending === undefined) return // an answer that is no longer awaited
    this.#pending.delete(message.seq)
    this.#watch()
    if (message.type === 'ok') {
      pending.resolve(message)
      return
    }
    const { error } = message
    const code = OWN_CODES.find((one) => one === error.type) ?? 'ENGINE_WORKER_ERROR'
    const text = `${peer} failed at ${pending.what}: ${error.type}: ${error.message}`
    const failure = new CkptError(code, text, {
      fields: { rank, traceback: error.traceback, ...(error.tensor !== undefined && { tensor: error.tensor }) },
    })
    pending.reject(failure)
    this.fail(failure)
  }
}
