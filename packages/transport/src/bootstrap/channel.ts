import { createCipheriv, createDecipheriv, hkdfSync } from 'node:crypto'
import type { Socket } from 'node:net'
import { CkptError } from '@ckpt/contract'
import { FrameReader } from '@ckpt/utils'

const CIPHER = 'aes-256-gcm'
const KEY_BYTES = 32
const NONCE_BYTES = 12
const TAG_BYTES = 16
/** As in version 1 of the protocol, so that each version can read the other's greeting; a tag uses the first 16. */
const CODE_BYTES = 32
const LENGTH_BYTES = 4
const HEADER_BYTES = LENGTH_BYTES + CODE_BYTES
/** Maximum size of a message after the peer has proven that it knows the secret, and before. */
const MOST_BYTES = 4 * 2 ** 20
const MOST_UNPROVEN_BYTES = 4096

/** Side of a connection. */
export type Side = 'client' | 'server'

/** Key and first nonce of one direction, and its number of messages. */
interface Direction {
  readonly key: Buffer
  readonly nonce: Buffer
  messages: number
}

/**
 * Messages over a socket: a length, a code of 32 bytes and JSON text. Once both sides know the session's keys every message is
 * encrypted and authenticated (AES-256-GCM) under the key of its direction, with its number as nonce, so that nobody else can
 * read, insert, change, drop or repeat one.
 */
export class Channel {
  readonly #socket: Socket
  readonly #side: Side
  #sending: Direction | undefined
  #receiving: Direction | undefined
  #mostBytes = MOST_UNPROVEN_BYTES
  readonly #frames = new FrameReader({ headerBytes: HEADER_BYTES, bodyBytes: (header) => this.#textBytes(header) })

  constructor(socket: Socket, side: Side) {
    this.#socket = socket
    this.#side = side
    socket.setNoDelay(true)
    socket.setKeepAlive(true, 10_000)
  }

  /**
   * Seals every message from now on, in both directions, under keys of the secret, the two random numbers and `binding` (what
   * the conversation is about). Both sides call it at the same point of their conversation.
   */
  secure(secret: string, binding: string, clientNonce: string, serverNonce: string): void {
    const salt = Buffer.from(clientNonce + serverNonce, 'hex')
    const bytes = Buffer.from(hkdfSync('sha256', secret, salt, binding, 2 * (KEY_BYTES + NONCE_BYTES)))
    const direction = (at: number): Direction => ({
      key: bytes.subarray(at, at + KEY_BYTES),
      nonce: bytes.subarray(at + KEY_BYTES, at + KEY_BYTES + NONCE_BYTES),
      messages: 0,
    })
    const [client, server] = [direction(0), direction(KEY_BYTES + NONCE_BYTES)]
    this.#sending = this.#side === 'client' ? client : server
    this.#receiving = this.#side === 'client' ? server : client
  }

  /** Allows long messages, after the peer has proven that it knows the secret. */
  trust(): void {
    this.#mostBytes = MOST_BYTES
  }

  send(message: unknown): void {
    const text = Buffer.from(JSON.stringify(message))
    const header = Buffer.alloc(HEADER_BYTES)
    header.writeUInt32BE(text.length)
    if (this.#sending === undefined) {
      this.#socket.write(Buffer.concat([header, text]))
      return
    }
    const { key, nonce } = next(this.#sending)
    const cipher = createCipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES })
    const sealed = Buffer.concat([cipher.update(text), cipher.final()])
    cipher.getAuthTag().copy(header, LENGTH_BYTES)
    this.#socket.write(Buffer.concat([header, sealed]))
  }

  /**
   * Takes arrived bytes and yields the completed messages, parsed.
   *
   * @throws CkptError `PEER_PROTOCOL` for an invalid message, `PEER_UNAUTHORIZED` for one that is not sealed with the session's
   * key.
   */
  *receive(chunk: Buffer): Generator<unknown, void> {
    for (const { header, body } of this.#frames.read(chunk)) yield parse(this.#open(header, body))
  }

  #textBytes(header: Buffer): number {
    const bytes = header.readUInt32BE()
    if (bytes > 0 && bytes <= this.#mostBytes) return bytes
    throw new CkptError('PEER_PROTOCOL', `a message of ${bytes} bytes, of at most ${this.#mostBytes}`)
  }

  #open(header: Buffer, text: Buffer): Buffer {
    if (this.#receiving === undefined) return text
    const { key, nonce } = next(this.#receiving)
    const decipher = createDecipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES })
    decipher.setAuthTag(header.subarray(LENGTH_BYTES, LENGTH_BYTES + TAG_BYTES))
    try {
      return Buffer.concat([decipher.update(text), decipher.final()])
    } catch (error) {
      throw CkptError.from(error, 'PEER_UNAUTHORIZED', 'a message that is not sealed with the secret')
    }
  }
}

/** Returns key and nonce of the next message. */
function next(direction: Direction): { key: Buffer; nonce: Buffer } {
  const nonce = Buffer.from(direction.nonce)
  const number = direction.messages++
  nonce.writeUInt32BE((nonce.readUInt32BE(NONCE_BYTES - 4) ^ number) >>> 0, NONCE_BYTES - 4)
  if (number >= 2 ** 32 - 1) throw new CkptError('PEER_PROTOCOL', 'too many messages for one connection')
  return { key: direction.key, nonce }
}

function parse(text: Buffer): unknown {
  try {
    return JSON.parse(text.toString('utf8'))
  } catch (error) {
    throw CkptError.from(error, 'PEER_PROTOCOL', 'a message that is not JSON')
  }
}
