import { randomBytes, randomInt } from 'node:crypto'
import { connect as connectSocket, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { CkptError, type ConnectPeerOptions, type EndpointDescriptor } from '@ckpt/contract'
import type { RdmaEndpoint } from '@ckpt/rdma-core-bindings'
import { withDeadline } from '@ckpt/utils'
import { Channel } from './channel.ts'
import { hello, RDMA_PROTOCOL, reply, type Reply, type Request, type ResolvedRegion } from './messages.ts'
import { splitAddress } from './options.ts'

type Question = Request extends infer R ? (R extends Request ? Omit<R, 'seq'> : never) : never

/**
 * An endpoint that strangers crowd closes connections that have proven nothing yet, the oldest first: another attempt succeeds.
 */
const ATTEMPTS = 8
/** Maximum pause before that, in milliseconds; a random fraction of it, so that honest peers do not all arrive at once. */
const PAUSE_MS = 50

interface Waiting {
  readonly resolve: (reply: Reply) => void
  readonly reject: (error: CkptError) => void
}

/** The connecting side's conversation with a peer's {@link BootstrapServer}. */
export class BootstrapClient {
  readonly #socket: Socket
  readonly #channel: Channel
  readonly #descriptor: EndpointDescriptor
  readonly #secret: string
  readonly #nonce = randomBytes(16).toString('hex')
  readonly #waiting = new Map<number, Waiting>()
  readonly #greeted: Promise<void>
  #onGreeted!: { resolve: () => void; reject: (error: CkptError) => void }
  #state: 'greeting' | 'proving' | 'open' = 'greeting'
  #seq = 0
  #lost: CkptError | undefined
  #reached = false
  /** True if the peer closed the connection before anything was proven. */
  #turnedAway = false
  /** Called with keys that the peer has closed. */
  onClosedKeys: (keys: readonly string[]) => void = () => undefined
  /** Called once, when the conversation has ended. */
  onLost: (error: CkptError) => void = () => undefined

  private constructor(socket: Socket, descriptor: EndpointDescriptor, secret: string) {
    this.#socket = socket
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
    this.#channel.send({ magic: 'ckpt-rdma', protocol: RDMA_PROTOCOL, id: descriptor.id, nonce: this.#nonce })
  }

  /** Connects to the first address that answers. Errors as for `OneSided.connect`. */
  static async connect(
    descriptor: EndpointDescriptor,
    { secret, timeoutMs, signal }: ConnectPeerOptions,
  ): Promise<BootstrapClient> {
    const deadline = performance.now() + timeoutMs
    let last: CkptError | undefined
    for (const address of descriptor.addresses) {
      const { host, port } = splitAddress(address, 'addresses')
      for (let attempt = 1; attempt <= ATTEMPTS && performance.now() < deadline; attempt++) {
        const client = new BootstrapClient(connectSocket({ host, port }), descriptor, secret)
        try {
          await withDeadline(client.#greeted, {
            what: `${descriptor.id} at ${address}`,
            timeoutMs: deadline - performance.now(),
            signal,
          })
          return client
        } catch (error) {
          client.close()
          if (CkptError.is(error, 'ABORTED')) throw error
          last = CkptError.is(error, 'TIMEOUT')
            ? client.#error('PEER_LOST', `no answer at ${address} in ${timeoutMs} ms`)
            : CkptError.from(error, 'PEER_LOST')
          if (!client.#turnedAway) break
          await sleep(randomInt(PAUSE_MS))
        }
      }
      // Only a missing peer is looked for at its other addresses.
      if (last !== undefined && last.code !== 'PEER_LOST') throw last
    }
    throw last ?? new CkptError('PEER_LOST', `endpoint ${descriptor.id} has no address`, { fields: { peer: descriptor.id } })
  }

  get lost(): CkptError | undefined {
    return this.#lost
  }

  /** @returns the peer's ends, in the order of `lanes`. */
  async open(lanes: readonly { nic: number; endpoint: RdmaEndpoint }[], timeoutMs: number): Promise<readonly RdmaEndpoint[]> {
    const answer = await this.#ask({ type: 'open', lanes: [...lanes] }, timeoutMs)
    if (answer.type === 'opened' && answer.endpoints.length === lanes.length) return answer.endpoints
    throw this.#error('PEER_PROTOCOL', 'an answer to a different question')
  }

  /**
   * Returns the locations of regions; `closed` for one that has been closed, undefined for a key that the peer does not know.
   */
  async resolve(keys: readonly string[], timeoutMs: number): Promise<readonly (ResolvedRegion | 'closed' | undefined)[]> {
    const answer = await this.#ask({ type: 'resolve', keys: [...keys] }, timeoutMs)
    if (answer.type === 'resolved' && answer.regions.length === keys.length)
      return answer.regions.map((region) => region ?? undefined)
    throw this.#error('PEER_PROTOCOL', 'an answer to a different question')
  }

  close(): void {
    this.#socket.destroy()
  }

  async #ask(question: Question, timeoutMs: number): Promise<Reply> {
    if (this.#lost !== undefined) throw this.#lost
    const seq = this.#seq++
    const answer = new Promise<Reply>((resolve, reject) => this.#waiting.set(seq, { resolve, reject }))
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
        else this.#answer(reply.parse(message))
      }
    } catch (error) {
      const code = CkptError.is(error) ? error.code : 'PEER_PROTOCOL'
      this.#lose(this.#error(code, error instanceof Error ? error.message : String(error)))
      this.close()
    }
  }

  #greet(message: unknown): void {
    const greeting = hello.safeParse(message)
    if (!greeting.success) throw this.#error('PEER_PROTOCOL', 'the server there is not an RDMA endpoint')
    const { protocol, id, nonce } = greeting.data
    if (protocol !== RDMA_PROTOCOL) throw this.#error('PEER_PROTOCOL', `it uses protocol ${protocol}, not ${RDMA_PROTOCOL}`)
    if (id !== this.#descriptor.id) throw this.#error('PEER_PROTOCOL', 'a different endpoint answers: it was restarted')
    this.#channel.secure(this.#secret, id, this.#nonce, nonce)
    this.#state = 'proving'
    // A question without cost; its answer shows that both know the secret.
    this.#ask({ type: 'resolve', keys: [] }, 2 ** 30).then(
      () => {
        this.#channel.trust()
        this.#state = 'open'
        this.#onGreeted.resolve()
      },
      () => undefined,
    )
  }

  #answer(message: Reply): void {
    if (message.type === 'closed') {
      this.onClosedKeys(message.keys)
      return
    }
    const waiting = this.#waiting.get(message.seq)
    if (message.type === 'failed') waiting?.reject(this.#error('PEER_LOST', message.message))
    else waiting?.resolve(message)
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
    const { id, addresses } = this.#descriptor
    const field = code === 'PEER_PROTOCOL' ? { field: 'id' } : {}
    return new CkptError(code, `endpoint ${id} (${addresses.join(', ')}): ${problem}`, { fields: { peer: id, ...field } })
  }
}
