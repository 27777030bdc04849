import type { Socket } from 'node:net'
import { CkptError } from '@ckpt/contract'
import { firstIssue } from '@ckpt/utils'
import type { CallContext, Rank } from './calls.ts'
import {
  clientFrames,
  decodeClientMessage,
  RANK_PROTOCOL,
  type Ask,
  rankFrame,
  type ClientMessage,
  type RankMessage,
} from './messages.ts'
import { schemas, type Verb } from './schemas.ts'

/** Interval of `alive` while a call is running. */
const ALIVE_MS = 1000
/** Shortest time between two messages about the progress of a call. */
const PROGRESS_MS = 50

/** One client and its running calls. */
export class Session {
  readonly #socket: Socket
  readonly #rank: Rank
  readonly #running = new Map<number, AbortController>()
  /** What ends the waits for the client's answers. */
  readonly #asked = new Map<number, (error: string | undefined) => void>()
  #asks = 0
  readonly #frames = clientFrames()
  readonly #onEnd: (reason: string) => void
  readonly #alive: NodeJS.Timeout

  /** @param onEnd called when the client has closed its end, or asked for the end, or sends what no client would */
  constructor(socket: Socket, rank: Rank, onEnd: (reason: string) => void) {
    this.#socket = socket
    this.#rank = rank
    this.#onEnd = onEnd
    socket.on('data', (chunk: Buffer) => this.#take(chunk))
    socket.on('error', (error) => onEnd(error.message))
    socket.on('close', () => onEnd('the client closed the connection'))
    this.#alive = setInterval(() => {
      if (this.#running.size > 0) this.#send({ type: 'alive' })
    }, ALIVE_MS)
    this.#send({ type: 'ready', protocol: RANK_PROTOCOL, pid: process.pid })
  }

  /** Aborts the running calls, and reads no more. */
  abort(reason: string): void {
    clearInterval(this.#alive)
    for (const controller of this.#running.values()) controller.abort(new CkptError('ABORTED', reason))
    this.#socket.removeAllListeners('data')
    // A client that ends stops to write to this process's memory first.
    for (const done of this.#asked.values()) done(reason)
  }

  /** Sends what was not sent yet. */
  end(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#socket.destroyed) resolve()
      else this.#socket.once('close', () => resolve()).end(() => resolve())
    })
  }

  #take(chunk: Buffer): void {
    try {
      for (const { body } of this.#frames.read(chunk)) this.#handle(decodeClientMessage(body))
    } catch (error) {
      this.#onEnd(error instanceof Error ? error.message : String(error))
    }
  }

  #handle(message: ClientMessage): void {
    if (message.type === 'cancel') {
      this.#running.get(message.id)?.abort(new CkptError('ABORTED', 'the caller cancelled the call'))
      return
    }
    if (message.type === 'done') {
      this.#asked.get(message.ask)?.(message.error)
      return
    }
    const { id } = message
    const controller = new AbortController()
    this.#running.set(id, controller)
    void this.#call(message, controller.signal)
      .then(
        (value): RankMessage => ({ type: 'result', id, value: plain(value) }),
        (error: unknown): RankMessage => {
          return { type: 'error', id, error: plain(CkptError.from(error, 'NATIVE_FAILURE').toJSON()) }
        },
      )
      .then((answer) => {
        this.#running.delete(id)
        this.#send(answer)
        if (message.verb === 'close') this.#onEnd('the client closed the rank')
      })
  }

  async #call(
    { id, verb, arguments: given, progress }: ClientMessage & { readonly type: 'call' },
    signal: AbortSignal,
  ): Promise<unknown> {
    if (!Object.hasOwn(schemas, verb)) {
      throw new CkptError('UNSUPPORTED', `this rank program has no call ${JSON.stringify(verb)}`, { fields: { field: 'verb' } })
    }
    const parsed = schemas[verb as Verb].safeParse(given)
    if (!parsed.success) {
      const { field, message } = firstIssue(parsed.error)
      throw new CkptError('INVALID_ARGUMENT', `${verb}: ${field}: ${message}`, { fields: { field } })
    }
    const handler = this.#rank.handlers[verb as Verb] as (options: unknown, context: CallContext) => Promise<unknown>
    return handler(parsed.data, {
      signal,
      ask: (ask) => this.#ask(id, ask),
      ...(progress && { onProgress: this.#progress(id) }),
    })
  }

  /** Waits for the client, even if the call is aborted: it may be writing to this process's memory. */
  async #ask(id: number, ask: Ask): Promise<void> {
    const number = this.#asks++
    const error = await new Promise<string | undefined>((resolve) => {
      this.#asked.set(number, resolve)
      this.#send({ type: 'ask', id, ask: number, ...ask })
    })
    this.#asked.delete(number)
    if (error === undefined) return
    throw ask.what === 'fill'
      ? new CkptError('NATIVE_FAILURE', `the client did not write its tensors: ${error}`)
      : new CkptError('ENGINE_WORKER_ERROR', `the client's call of its engine failed: ${error}`)
  }

  /** Reports at most every 50 ms, and the end. */
  #progress(id: number): (done: number, total: number) => void {
    let last = -Infinity
    return (done, total) => {
      const now = performance.now()
      if (now - last < PROGRESS_MS && done < total) return
      last = now
      this.#send({ type: 'progress', id, done, total })
    }
  }

  #send(message: RankMessage): void {
    if (this.#socket.writable) this.#socket.write(rankFrame(message))
  }
}

/** Returns `value` as plain data: what JSON can hold. */
function plain<T>(value: T): T {
  return value === undefined ? value : (JSON.parse(JSON.stringify(value)) as T)
}
