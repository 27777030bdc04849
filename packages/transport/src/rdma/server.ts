import { randomBytes } from 'node:crypto'
import { createServer, type Server, type Socket } from 'node:net'
import { once } from 'node:events'
import { CkptError } from '@ckpt/contract'
import type { RdmaDevice, RdmaEndpoint, RdmaQueuePair } from '@ckpt/rdma-core-bindings'
import { native } from '../addon.ts'
import { Channel } from './channel.ts'
import { hello, RDMA_PROTOCOL, request, type Reply, type Request, type ResolvedRegion } from './messages.ts'
import { splitAddress, type RdmaSettings } from './options.ts'
import { Connections } from './strangers.ts'

/** Time for a stranger to prove the secret. */
const PROOF_MS = 10_000
/** Maximum connections waiting to be accepted: those of a large cluster, or of a flood that honest ones arrive in. */
const BACKLOG = 4096

/** Parts of the endpoint that the server uses. */
export interface Served {
  readonly id: string
  readonly settings: RdmaSettings
  /** By NIC. */
  readonly devices: readonly RdmaDevice[]
  regionOf(key: string): ResolvedRegion | 'closed' | undefined
}

/**
 * Server on which peers agree with an endpoint on queue pairs and learn the locations of regions. It only takes part in
 * connecting; later reads are served by the device alone.
 */
export class BootstrapServer {
  readonly #served: Served
  readonly #server: Server
  readonly #sessions = new Connections<Session>()

  constructor(served: Served) {
    this.#served = served
    this.#server = createServer((socket) => {
      const session = new Session(socket, this.#served, {
        proven: () => this.#sessions.prove(session),
        gone: () => this.#sessions.delete(session),
      })
      if (!this.#sessions.add(session)) void session.close()
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
    for (const session of this.#sessions) session.tell({ type: 'closed', keys: [key] })
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    await Promise.all([...this.#sessions].map((session) => session.close()))
    await closed
  }
}

/** Callbacks of a session to its server. */
interface SessionEvents {
  proven(): void
  gone(): void
}

/** One peer's connection, with the queue pairs that serve it. */
class Session {
  readonly #socket: Socket
  readonly #channel: Channel
  readonly #served: Served
  readonly #nonce = randomBytes(16).toString('hex')
  readonly #events: SessionEvents
  readonly #proofTimer: NodeJS.Timeout
  readonly #gone: Promise<void>
  #greeted = false
  #proven = false
  #pairs: RdmaQueuePair[] = []
  #work: Promise<void> = Promise.resolve()

  constructor(socket: Socket, served: Served, events: SessionEvents) {
    this.#socket = socket
    this.#served = served
    this.#events = events
    this.#channel = new Channel(socket, 'server')
    this.#proofTimer = setTimeout(() => socket.destroy(), PROOF_MS)
    socket.on('data', (chunk) => this.#receive(chunk))
    socket.on('error', () => undefined)
    this.#gone = new Promise((resolve) => socket.once('close', resolve)).then(async () => {
      clearTimeout(this.#proofTimer)
      events.gone()
      await this.#work
      await this.#replacePairs([])
    })
    this.#gone.catch(() => undefined)
  }

  get proven(): boolean {
    return this.#proven
  }

  tell(message: Reply): void {
    if (this.#proven && !this.#socket.destroyed) this.#channel.send(message)
  }

  close(): Promise<void> {
    this.#socket.destroy()
    return this.#gone
  }

  #receive(chunk: Buffer): void {
    try {
      for (const message of this.#channel.receive(chunk)) {
        if (this.#greeted) this.#ask(request.parse(message))
        else this.#greet(message)
      }
    } catch {
      // A peer that violates the protocol, or cannot prove the secret, learns nothing else.
      this.#socket.destroy()
    }
  }

  #greet(message: unknown): void {
    const { protocol, id, nonce } = hello.parse(message)
    const own = { magic: 'ckpt-rdma', protocol: RDMA_PROTOCOL, id: this.#served.id, nonce: this.#nonce }
    this.#channel.send(own)
    if (protocol !== RDMA_PROTOCOL || id !== this.#served.id) {
      this.#socket.end()
      return
    }
    this.#channel.secure(this.#served.settings.secret, id, nonce, this.#nonce)
    this.#greeted = true
  }

  /** Everything after the greeting is sealed: a message that arrived here has proven the secret. */
  #ask(message: Request): void {
    if (!this.#proven) {
      this.#proven = true
      clearTimeout(this.#proofTimer)
      this.#channel.trust()
      this.#events.proven()
    }
    const answer = message.type === 'resolve' ? this.#resolve(message.keys) : this.#open(message)
    this.#work = Promise.resolve(answer).then(
      (value) => this.tell({ ...value, seq: message.seq }),
      (error: unknown) =>
        this.tell({ type: 'failed', seq: message.seq, message: error instanceof Error ? error.message : String(error) }),
    )
  }

  #resolve(keys: readonly string[]): Pick<Extract<Reply, { type: 'resolved' }>, 'type' | 'regions'> {
    return { type: 'resolved', regions: keys.map((key) => this.#served.regionOf(key) ?? null) }
  }

  async #open({ lanes }: Extract<Request, { type: 'open' }>): Promise<{ type: 'opened'; endpoints: RdmaEndpoint[] }> {
    const { settings, devices } = this.#served
    // The old pairs of a renewed set are useless: a failed reliable connection stays so.
    await this.#replacePairs([])
    const pairs: RdmaQueuePair[] = []
    try {
      for (const { nic: index, endpoint } of lanes) {
        const nic = settings.nics[index]
        if (nic === undefined) throw new CkptError('INVALID_ARGUMENT', `there is no NIC ${index}`)
        // This side never sends requests of its own.
        const pair = await native(() => devices[index]!.createQueuePair({ port: nic.port, gidIndex: nic.gidIndex, depth: 1 }))
        pairs.push(pair)
        await native(() => pair.connect(endpoint, settings.connection))
      }
    } catch (error) {
      await Promise.all(pairs.map((pair) => pair.close()))
      throw error
    }
    await this.#replacePairs(pairs)
    return { type: 'opened', endpoints: pairs.map(({ local }) => local) }
  }

  async #replacePairs(pairs: RdmaQueuePair[]): Promise<void> {
    const old = this.#pairs
    this.#pairs = pairs
    await Promise.allSettled(old.map((pair) => pair.close()))
    if (this.#socket.destroyed && pairs.length > 0) await this.#replacePairs([])
  }
}
