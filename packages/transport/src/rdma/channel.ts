import { createHmac, timingSafeEqual } from 'node:crypto'
import type { Socket } from 'node:net'
import { CkptError } from '@ckpt/contract'

const MAC_BYTES = 32
const HEADER_BYTES = 4 + MAC_BYTES
const MOST_BYTES = 4 * 2 ** 20
const NO_MAC = Buffer.alloc(MAC_BYTES)

/** Which side of a connection speaks. */
export type Side = 'client' | 'server'

/**
 * Messages over a socket: a length, a code of 32 bytes and JSON text. Once both sides know the session's key every message carries an
 * HMAC-SHA256 of its text, its number and its sender, so that nobody else can put in, change, drop or repeat one.
 */
export class Channel {
  readonly #socket: Socket
  readonly #side: Side
  #key: Buffer | undefined
  #sent = 0
  #received = 0
  #chunks: Buffer[] = []
  #have = 0

  constructor(socket: Socket, side: Side) {
    this.#socket = socket
    this.#side = side
    socket.setNoDelay(true)
    socket.setKeepAlive(true, 10_000)
  }

  /** From now on every message is signed, and must be. Both sides call it at the same place of their conversation. */
  secure(secret: string, id: string, clientNonce: string, serverNonce: string): void {
    this.#key = createHmac('sha256', secret).update(`ckpt rdma 1|${id}|${clientNonce}|${serverNonce}`).digest()
  }

  send(message: unknown): void {
    const text = Buffer.from(JSON.stringify(message))
    const mac = this.#key === undefined ? NO_MAC : sign(this.#key, this.#side, this.#sent++, text)
    const header = Buffer.alloc(4)
    header.writeUInt32BE(text.length)
    this.#socket.write(Buffer.concat([header, mac, text]))
  }

  /**
   * Takes in what has arrived; the messages that it completes, parsed.
   *
   * @throws CkptError `PEER_PROTOCOL` for what is no such message, `PEER_UNAUTHORIZED` for one that is not signed with the session's key.
   */
  *receive(chunk: Buffer): Generator<unknown, void> {
    this.#chunks.push(chunk)
    this.#have += chunk.length
    while (this.#have >= HEADER_BYTES) {
      const all = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks)
      this.#chunks = [all]
      const length = all.readUInt32BE()
      if (length > MOST_BYTES) throw new CkptError('PEER_PROTOCOL', `a message of ${length} bytes`)
      const end = HEADER_BYTES + length
      if (all.length < end) return
      const text = all.subarray(HEADER_BYTES, end)
      this.#check(all.subarray(4, HEADER_BYTES), text)
      this.#chunks = [all.subarray(end)]
      this.#have -= end
      yield parse(text)
    }
  }

  #check(mac: Buffer, text: Buffer): void {
    if (this.#key === undefined) return
    const expected = sign(this.#key, this.#side === 'client' ? 'server' : 'client', this.#received++, text)
    if (!timingSafeEqual(mac, expected))
      throw new CkptError('PEER_UNAUTHORIZED', 'a message that is not signed with the secret')
  }
}

function sign(key: Buffer, side: Side, number: number, text: Buffer): Buffer {
  return createHmac('sha256', key).update(`${side}|${number}|`).update(text).digest()
}

function parse(text: Buffer): unknown {
  try {
    return JSON.parse(text.toString('utf8'))
  } catch (error) {
    throw CkptError.from(error, 'PEER_PROTOCOL', 'a message that is no JSON')
  }
}
