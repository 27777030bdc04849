import { createConnection, type Socket } from 'node:net'
import { CkptError, shown } from '@ckpt/contract'
import { FrameReader } from '@ckpt/utils'

/** Version of the protocol (docs/trainers.md); both sides send theirs. */
export const TRAINER_PROTOCOL = 1
/** Maximum length of a frame, in bytes: some million tensors. */
const MAX_FRAME_BYTES = 256 * 2 ** 20
const PREFIX_BYTES = 4

/** A message of the protocol: JSON with a type. */
export type TrainerMessage = Readonly<Record<string, unknown>> & { readonly type: string }

/** One connection to a trainer's socket: frames of a 4-byte little-endian length and JSON. */
export class TrainerSession implements Disposable {
  readonly #socket: Socket
  readonly #peer: string
  readonly #timeoutMs: number
  readonly #lost = new AbortController()
  readonly #messages: TrainerMessage[] = []
  readonly #frames = new FrameReader({ headerBytes: PREFIX_BYTES, bodyBytes: (prefix) => this.#bodyBytes(prefix) })
  #wake: (() => void) | undefined

  private constructor(peer: string, timeoutMs: number) {
    this.#peer = peer
    this.#timeoutMs = timeoutMs
    this.#socket = createConnection(peer)
    this.#socket.on('data', (data) => this.#take(data))
    this.#socket.on('error', (error: NodeJS.ErrnoException) => this.#fail(lost(peer, error.message, error)))
    this.#socket.on('close', () => this.#fail(lost(peer, 'the trainer closed the connection or died')))
  }

  /** @throws CkptError `CHECKPOINT_UNREADABLE` naming the socket if nothing listens there, `TIMEOUT`, `ABORTED`. */
  static async connect(peer: string, options: { timeoutMs: number; signal: AbortSignal }): Promise<TrainerSession> {
    const session = new TrainerSession(peer, options.timeoutMs)
    try {
      await session.#until(() => !session.#socket.connecting, options.signal, 'does not accept a connection')
      return session
    } catch (error) {
      session[Symbol.dispose]()
      throw error
    }
  }

  /** Aborted, with a CkptError that names the peer, once the trainer has ended or sends an invalid message. */
  get lost(): AbortSignal {
    return this.#lost.signal
  }

  send(message: TrainerMessage): void {
    const body = Buffer.from(JSON.stringify(message))
    const prefix = Buffer.alloc(PREFIX_BYTES)
    prefix.writeUInt32LE(body.length)
    this.#socket.write(Buffer.concat([prefix, body]))
  }

  /**
   * Returns the next message, which must be of a type.
   *
   * @throws CkptError `CHECKPOINT_UNREADABLE` if the trainer has ended or reports a failure, `CHECKPOINT_MALFORMED` for any
   * unexpected message, `TIMEOUT`, `ABORTED`; all name the socket.
   */
  async expect(type: string, signal: AbortSignal): Promise<TrainerMessage> {
    await this.#until(() => this.#messages.length > 0, signal, `sent no ${JSON.stringify(type)}`)
    const message = this.#messages.shift()!
    if (message.type === type) return message
    if (message.type === 'error')
      throw lost(
        this.#peer,
        `the trainer failed: ${typeof message['message'] === 'string' ? message['message'] : shown(message['message'])}`,
      )
    throw malformed(this.#peer, 'type', `expected ${JSON.stringify(type)}, got ${shown(message.type)}`)
  }

  /** Ends the connection once everything was sent. */
  [Symbol.dispose](): void {
    this.#socket.removeAllListeners('data')
    this.#socket.end(() => this.#socket.destroy())
    if (this.#socket.connecting) this.#socket.destroy()
  }

  #take(data: Buffer): void {
    try {
      for (const { body } of this.#frames.read(data)) this.#messages.push(parse(this.#peer, body))
      this.#wake?.()
    } catch (error) {
      this.#fail(CkptError.from(error, 'CHECKPOINT_MALFORMED'))
      this.#socket.destroy()
    }
  }

  #bodyBytes(prefix: Buffer): number {
    const bytes = prefix.readUInt32LE()
    if (bytes <= MAX_FRAME_BYTES) return bytes
    throw malformed(this.#peer, 'length', `a frame of ${bytes} bytes`)
  }

  #fail(error: CkptError): void {
    if (!this.#lost.signal.aborted) this.#lost.abort(error)
    this.#wake?.()
  }

  async #until(ready: () => boolean, signal: AbortSignal, what: string): Promise<void> {
    const wake = (): void => this.#wake?.()
    const deadline = performance.now() + this.#timeoutMs
    const timer = setTimeout(wake, this.#timeoutMs + 1)
    this.#socket.once('connect', wake)
    signal.addEventListener('abort', wake, { once: true })
    try {
      for (;;) {
        if (signal.aborted) throw CkptError.from(signal.reason, 'ABORTED', 'registration aborted', { peer: this.#peer })
        if (this.#lost.signal.aborted && this.#messages.length === 0) throw this.#lost.signal.reason
        if (ready()) return
        if (performance.now() >= deadline) {
          throw new CkptError('TIMEOUT', `trainer ${this.#peer} ${what} within ${this.#timeoutMs} ms`, {
            fields: { peer: this.#peer },
          })
        }
        await new Promise<void>((resolve) => (this.#wake = resolve))
      }
    } finally {
      this.#wake = undefined
      clearTimeout(timer)
      this.#socket.off('connect', wake)
      signal.removeEventListener('abort', wake)
    }
  }
}

function parse(peer: string, frame: Buffer): TrainerMessage {
  let value: unknown
  try {
    value = JSON.parse(frame.toString('utf8'))
  } catch (error) {
    throw CkptError.from(error, 'CHECKPOINT_MALFORMED', `trainer ${peer}: a frame is not JSON`, { peer })
  }
  if (typeof value !== 'object' || value === null || typeof (value as { type?: unknown }).type !== 'string') {
    throw malformed(peer, 'type', 'a frame without a type')
  }
  return value as TrainerMessage
}

/** Error for a trainer that cannot be read from. */
function lost(peer: string, message: string, cause?: NodeJS.ErrnoException): CkptError {
  return new CkptError('CHECKPOINT_UNREADABLE', `trainer ${peer}: ${message}`, {
    cause,
    fields: { peer, ...(cause?.errno !== undefined && { errno: Math.abs(cause.errno) }) },
  })
}

/** Error for a trainer's message that violates the protocol. */
export function malformed(peer: string, field: string, message: string, tensor?: string): CkptError {
  const subject = tensor === undefined ? '' : `tensor ${shown(tensor)}: `
  return new CkptError('CHECKPOINT_MALFORMED', `trainer ${peer}: ${subject}${message}`, {
    fields: { peer, field, ...(tensor !== undefined && { tensor }) },
  })
}
