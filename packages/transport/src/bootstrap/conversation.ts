import { randomBytes, randomInt } from 'node:crypto'
import { connect as connectSocket, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { CkptError, type ConnectPeerOptions, type EndpointDescriptor } from '@ckpt/contract'
import { withDeadline } from '@ckpt/utils'
import { splitAddress } from './address.ts'
import { Channel } from './channel.ts'
import { bindingOf, hello, type Asked, type Dialect, type Told, type Unnumbered } from './messages.ts'

/**
 * An endpoint that strangers crowd closes connections that have proven nothing yet, the oldest first: another attempt succeeds.
 */
const ATTEMPTS = 8
/** Maximum pause before that, in milliseconds; a random fraction of it, so that honest peers do not all arrive at once. */
const PAUSE_MS = 50

interface Waiting<Answer> {
  readonly resolve: (reply: Answer) => void
  readonly reject: (error: CkptError) => void
}

/** The connecting side's conversation with a peer's `ConversationServer`: both have proven that they know the secret. */
export abstract class Conversation<Question extends Asked, Answer extends Told> {
  readonly #socket: Socket
  readonly #channel: Channel
  readonly #dialect: Dialect<Question, Answer>
  readonly #descriptor: EndpointDescriptor
  readonly #secret: string
  readonly #nonce = randomBytes(16).toString('hex')
  readonly #waiting = new Map<number, Waiting<Answer>>()
  readonly #greeted: Promise<void>
  #onGreeted!: { resolve: () => void; reject: (error: CkptError) => void }
  #state: 'greeting' | 'proving' | 'open' = 'greeting'
  #seq = 0
  #lost: CkptError | undefined
  #reached = false
  #turnedAway = false
  /** Called with keys that the peer has closed. */
  onClosedKeys: (keys: readonly string[]) => void = () => undefined
  /** Called once, when the conversation has ended. */
  onLost: (error: CkptError) => void = () => undefined

  constructor(socket: Socket, dialect: Dialect<Question, Answer>, descriptor: EndpointDescriptor, secret: string) {
    this.#socket = socket
    this.#dialect = dialect
    this.#descriptor = descriptor
    this.#secret = secret
    this.#channel = new Channel(socket, 'client')
    this.#greeted = new Promise((resolve, reject) => (this.#onGreeted = { resolve, reject }))
    this.#greeted.catch(() => undefined)
    let problem = 'the connection was closed'
    socket.on('connect', () => (this.#reached = true))
    socket.on('error', (error) => (problem = error.message))
    socket.on('close', () => {
      this.#turnedAway = this.#lost === undefined && this.#reached && this.#state !== 'open'
      this.#lose(this.#closedError(problem))
    })
    socket.on('data', (chunk) => this.#receive(chunk))
    const { name, protocol } = dialect
    this.#channel.send({ magic: `ckpt-${name}`, protocol, id: descriptor.id, nonce: this.#nonce })
  }

  /** Settles when both sides have proven the secret, or cannot. */
  get greeted(): Promise<void> {
    return this.#greeted
  }

  /** True if the peer closed the connection before anything was proven. */
  get turnedAway(): boolean {
    return this.#turnedAway
  }

  get lost(): CkptError | undefined {
    return this.#lost
  }

  close(): void {
    this.#socket.destroy()
  }

  /** Returns the answer to a request. @throws CkptError `PEER_LOST` without an answer in time. */
  protected async ask(question: Unnumbered<Question>, timeoutMs: number): Promise<Answer> {
    if (this.#lost !== undefined) throw this.#lost
    const seq = this.#seq++
    const answer = new Promise<Answer>((resolve, reject) => this.#waiting.set(seq, { resolve, reject }))
    answer.catch(() => undefined)
    this.#channel.send({ ...question, seq })
    try {
      return await withDeadline(answer, { what: `an answer of ${this.#descriptor.id}`, timeoutMs })
    } catch (error) {
      if (!CkptError.is(error, 'TIMEOUT')) throw error
      throw this.#error('PEER_LOST', `no answer in ${timeoutMs} ms`)
    } finally {
      this.#waiting.delete(seq)
    }
  }

  #receive(chunk: Buffer): void {
    try {
      for (const message of this.#channel.receive(chunk)) {
        if (this.#state === 'greeting') this.#greet(message)
        else this.#answer(this.#dialect.reply.parse(message))
      }
    } catch (error) {
      const code = CkptError.is(error) ? error.code : 'PEER_PROTOCOL'
      this.#lose(this.#error(code, error instanceof Error ? error.message : String(error)))
      this.close()
    }
  }

  #greet(message: unknown): void {
    const { name, protocol: own, server } = this.#dialect
    const greeting = hello.safeParse(message)
    if (!greeting.success || greeting.data.magic !== `ckpt-${name}`)
      throw this.#error('PEER_PROTOCOL', `the server there is not ${server}`)
    const { protocol, id, nonce } = greeting.data
    if (protocol !== own) throw this.#error('PEER_PROTOCOL', `it uses protocol ${protocol}, not ${own}`)
    if (id !== this.#descriptor.id) throw this.#error('PEER_PROTOCOL', 'a different endpoint answers: it was restarted')
    this.#channel.secure(this.#secret, bindingOf(this.#dialect, own, id), this.#nonce, nonce)
    this.#state = 'proving'
    // A question without cost; its answer shows that both know the secret.
    const question = { type: 'resolve', keys: [] } as unknown as Unnumbered<Question>
    this.ask(question, 2 ** 30).then(
      () => {
        this.#channel.trust()
        this.#state = 'open'
        this.#onGreeted.resolve()
      },
      () => undefined,
    )
  }

  #answer(message: Answer): void {
    if (isClosed(message)) {
      this.onClosedKeys(message.keys)
      return
    }
    const waiting = this.#waiting.get((message as { seq: number }).seq)
    if (isFailed(message)) waiting?.reject(this.#error('PEER_LOST', message.message))
    else waiting?.resolve(message)
  }

  /** The error for an answer to a different question. */
  protected unexpected(): CkptError {
    return this.#error('PEER_PROTOCOL', 'an answer to a different question')
  }

  #lose(error: CkptError): void {
    if (this.#lost !== undefined) return
    this.#lost = error
    this.#onGreeted.reject(error)
    for (const { reject } of this.#waiting.values()) reject(error)
    this.#waiting.clear()
    this.onLost(error)
  }

  /** A peer that disconnects at the first signed message does so because of its signature. */
  #closedError(problem: string): CkptError {
    return this.#state === 'proving'
      ? this.#error('PEER_UNAUTHORIZED', 'the secret differs from its own')
      : this.#error('PEER_LOST', problem)
  }

  #error(code: CkptError['code'], problem: string): CkptError {
    return errorOf(this.#descriptor, code, problem)
  }
}

/** Connects to the first address that answers, with `create` for each attempt. Errors as for `OneSided.connect`. */
export async function reach<One extends Pick<Conversation<Asked, Told>, 'greeted' | 'turnedAway' | 'close'>>(
  create: (socket: Socket) => One,
  descriptor: EndpointDescriptor,
  { timeoutMs, signal }: Omit<ConnectPeerOptions, 'secret'>,
): Promise<One> {
  const deadline = performance.now() + timeoutMs
  let last: CkptError | undefined
  for (const address of descriptor.addresses) {
    const { host, port } = splitAddress(address, 'addresses')
    for (let attempt = 1; attempt <= ATTEMPTS && performance.now() < deadline; attempt++) {
      const client = create(connectSocket({ host, port }))
      try {
        await withDeadline(client.greeted, {
          what: `${descriptor.id} at ${address}`,
          timeoutMs: deadline - performance.now(),
          signal,
        })
        return client
      } catch (error) {
        client.close()
        if (CkptError.is(error, 'ABORTED')) throw error
        last = CkptError.is(error, 'TIMEOUT')
          ? errorOf(descriptor, 'PEER_LOST', `no answer at ${address} in ${timeoutMs} ms`)
          : CkptError.from(error, 'PEER_LOST')
        if (!client.turnedAway) break
        await sleep(randomInt(PAUSE_MS))
      }
    }
    // Only a missing peer is looked for at its other addresses.
    if (last !== undefined && last.code !== 'PEER_LOST') throw last
  }
  throw last ?? new CkptError('PEER_LOST', `endpoint ${descriptor.id} has no address`, { fields: { peer: descriptor.id } })
}

function errorOf({ id, addresses }: EndpointDescriptor, code: CkptError['code'], problem: string): CkptError {
  const field = code === 'PEER_PROTOCOL' ? { field: 'id' } : {}
  return new CkptError(code, `endpoint ${id} (${addresses.join(', ')}): ${problem}`, { fields: { peer: id, ...field } })
}

function isClosed(message: Told): message is Extract<Told, { type: 'closed' }> {
  return message.type === 'closed'
}

function isFailed(message: Told): message is Extract<Told, { type: 'failed' }> {
  return message.type === 'failed'
}
