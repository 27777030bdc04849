import { randomBytes } from 'node:crypto'
import { createServer, type Server, type Socket } from 'node:net'
import { once } from 'node:events'
import { CkptError } from '@ckpt/contract'
import { splitAddress } from './address.ts'
import { Channel } from './channel.ts'
import { bindingOf, hello, type Asked, type Dialect, type Told, type Unnumbered } from './messages.ts'
import { Connections } from './strangers.ts'

/** Time for a stranger to prove the secret. */
const PROOF_MS = 10_000
/** Maximum connections waiting to be accepted: those of a large cluster, or of a flood that honest ones arrive in. */
const BACKLOG = 4096

/** One peer's part of a server: it answers the requests of a peer that has proven the secret. */
export interface Session<Question extends Asked, Answer extends Told> {
  answer(message: Question): Unnumbered<Answer> | Promise<Unnumbered<Answer>>
  /** Called once, when the conversation has ended. */
  end(): Promise<void>
}

export interface ConversationServerOptions<Question extends Asked, Answer extends Told> {
  readonly dialect: Dialect<Question, Answer>
  readonly id: string
  readonly secret: string
  /** Called for each new connection; `hangUp` ends it. */
  open(hangUp: () => void): Session<Question, Answer>
}

/** Server on which peers prove the secret, and ask an endpoint what they need to know before they use its wire. */
export class ConversationServer<Question extends Asked, Answer extends Told> {
  readonly #server: Server
  readonly #sessions = new Connections<ServedPeer<Question, Answer>>()

  constructor(options: ConversationServerOptions<Question, Answer>) {
    this.#server = createServer((socket) => {
      const peer = new ServedPeer(socket, options, {
        proven: () => this.#sessions.prove(peer),
        gone: () => this.#sessions.delete(peer),
      })
      if (!this.#sessions.add(peer)) void peer.close()
    })
  }

  /** @returns the port. @throws CkptError `NATIVE_FAILURE` naming the address. */
  async listen(address: string): Promise<number> {
    const { host, port } = splitAddress(address, 'listen')
    try {
      this.#server.listen({ port, host, backlog: BACKLOG })
      await once(this.#server, 'listening')
    } catch (error) {
      throw CkptError.from(error, 'NATIVE_FAILURE', `cannot listen on ${address}`, { peer: address })
    }
    const bound = this.#server.address()
    return typeof bound === 'object' && bound !== null ? bound.port : port
  }

  /** Number of connected peers. */
  get connections(): number {
    return this.#sessions.size
  }

  /** Notifies peers that a key is no longer valid. */
  announceClosed(key: string): void {
    for (const peer of this.#sessions) peer.tell({ type: 'closed', keys: [key] })
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    await Promise.all([...this.#sessions].map((peer) => peer.close()))
    await closed
  }
}

/** Callbacks of a connection to its server. */
interface PeerEvents {
  proven(): void
  gone(): void
}

/** One peer's connection. */
class ServedPeer<Question extends Asked, Answer extends Told> {
  readonly #socket: Socket
  readonly #channel: Channel
  readonly #options: ConversationServerOptions<Question, Answer>
  readonly #session: Session<Question, Answer>
  readonly #nonce = randomBytes(16).toString('hex')
  readonly #events: PeerEvents
  readonly #proofTimer: NodeJS.Timeout
  readonly #gone: Promise<void>
  #greeted = false
  #proven = false
  #work: Promise<void> = Promise.resolve()

  constructor(socket: Socket, options: ConversationServerOptions<Question, Answer>, events: PeerEvents) {
    this.#socket = socket
    this.#options = options
    this.#session = options.open(() => socket.destroy())
    this.#events = events
    this.#channel = new Channel(socket, 'server')
    this.#proofTimer = setTimeout(() => socket.destroy(), PROOF_MS)
    socket.on('data', (chunk) => this.#receive(chunk))
    socket.on('error', () => undefined)
    this.#gone = new Promise((resolve) => socket.once('close', resolve)).then(async () => {
      clearTimeout(this.#proofTimer)
      events.gone()
      await this.#work
      await this.#session.end()
    })
    this.#gone.catch(() => undefined)
  }

  get proven(): boolean {
    return this.#proven
  }

  tell(message: Told): void {
    if (this.#proven && !this.#socket.destroyed) this.#channel.send(message)
  }

  close(): Promise<void> {
    this.#socket.destroy()
    return this.#gone
  }

  #receive(chunk: Buffer): void {
    try {
      for (const message of this.#channel.receive(chunk)) {
        if (this.#greeted) this.#answer(this.#options.dialect.request.parse(message))
        else this.#greet(message)
      }
    } catch {
      // A peer that violates the protocol, or cannot prove the secret, learns nothing else.
      this.#socket.destroy()
    }
  }

  #greet(message: unknown): void {
    const { dialect, secret, id: own } = this.#options
    const magic = `ckpt-${dialect.name}`
    const { protocol, id, nonce, magic: theirs } = hello.parse(message)
    if (theirs !== magic) throw new CkptError('PEER_PROTOCOL', 'a greeting of something else')
    this.#channel.send({ magic, protocol: dialect.protocol, id: own, nonce: this.#nonce })
    if (protocol !== dialect.protocol || id !== own) {
      this.#socket.end()
      return
    }
    this.#channel.secure(secret, bindingOf(dialect, protocol, id), nonce, this.#nonce)
    this.#greeted = true
  }

  /** Everything after the greeting is sealed: a message that arrived here has proven the secret. */
  #answer(message: Question): void {
    if (!this.#proven) {
      this.#proven = true
      clearTimeout(this.#proofTimer)
      this.#channel.trust()
      this.#events.proven()
    }
    const { seq } = message
    this.#work = Promise.resolve(this.#session.answer(message)).then(
      (value) => this.tell({ ...value, seq }),
      (error: unknown) => this.tell({ type: 'failed', seq, message: error instanceof Error ? error.message : String(error) }),
    )
  }
}
