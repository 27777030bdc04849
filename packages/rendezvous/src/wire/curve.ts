import { createPrivateKey, createPublicKey, scrypt } from 'node:crypto'
import { promisify } from 'node:util'

import { curveKeyPair } from 'zeromq'

/** A CURVE key pair in Z85, the encoding of ZeroMQ. */
export interface KeyPair {
  readonly publicKey: string
  readonly secretKey: string
}

/** Options that make a socket the coordinator's, or a rank's, side of CURVE. */
export type CurveServer = { readonly curveServer: true; readonly curveSecretKey: string }
export type CurveClient = { readonly curveServerKey: string; readonly curvePublicKey: string; readonly curveSecretKey: string }

const deriveBytes = promisify<string, string, number, { N: number; r: number; p: number }, Buffer>(scrypt)
/** Cost of a guess at a weak secret: 16 MiB and some tens of milliseconds. */
const COST = { N: 2 ** 14, r: 8, p: 1 }
/** Followed by the run's name, if it has one. */
const SALT = 'ckpt rendezvous coordinator key 1'
/** PKCS #8 of an X25519 private key, up to the key's 32 bytes (RFC 8410, section 7). */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b656e04220420', 'hex')
const Z85 = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#'

const derived = new Map<string, Promise<KeyPair>>()

/**
 * Returns the coordinator's key pair, which every holder of the run's secret can derive. Its public half is as secret as the
 * private one. Without it no CurveZMQ handshake can begin (rfc.zeromq.org/spec/26: the client's first command is boxed for the
 * server's permanent key, and no command carries that key). So a peer without the secret only gets a closed connection. Runs
 * with different names have different keys, even with the same secret.
 */
export function coordinatorKeys(token: string, run = ''): Promise<KeyPair> {
  const salt = run === '' ? SALT : `${SALT}|${run}`
  const name = JSON.stringify([token, run])
  let keys = derived.get(name)
  if (!keys) {
    keys = deriveBytes(token, salt, 32, COST).then(keyPairOf)
    derived.set(name, keys)
  }
  return keys
}

/** Returns options of the coordinator's socket; none without a secret. */
export async function curveServer(token: string, run = ''): Promise<CurveServer | undefined> {
  if (token === '') return undefined
  return { curveServer: true, curveSecretKey: (await coordinatorKeys(token, run)).secretKey }
}

/** Returns options of a rank's socket, with a new key pair for this connection; none without a secret. */
export async function curveClient(token: string, run = ''): Promise<CurveClient | undefined> {
  if (token === '') return undefined
  const { publicKey: curveServerKey } = await coordinatorKeys(token, run)
  const own = curveKeyPair()
  return { curveServerKey, curvePublicKey: own.publicKey, curveSecretKey: own.secretKey }
}

function keyPairOf(secret: Buffer): KeyPair {
  const key = createPrivateKey({ key: Buffer.concat([PKCS8_PREFIX, secret]), format: 'der', type: 'pkcs8' })
  const { x } = createPublicKey(key).export({ format: 'jwk' })
  return { publicKey: z85(Buffer.from(x!, 'base64url')), secretKey: z85(secret) }
}

/** Encodes bytes whose number is a multiple of four as Z85 (rfc.zeromq.org/spec/32). */
export function z85(bytes: Buffer): string {
  let text = ''
  for (let at = 0; at < bytes.length; at += 4) {
    let value = bytes.readUInt32BE(at)
    let five = ''
    for (let i = 0; i < 5; i++) {
      five = Z85[value % 85]! + five
      value = Math.floor(value / 85)
    }
    text += five
  }
  return text
}
