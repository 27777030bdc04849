import { connect } from 'node:net'

import { CkptError } from '@ckpt/contract'
import type { Dealer } from 'zeromq'

import { parseAddress } from '../wire/address.ts'

/** A coordinator that is just going down breaks handshakes too, but not so many in a row. */
const REFUSALS = 3
/** How long a coordinator may take to say that it is one, in milliseconds. */
const GREETING_MS = 2000
/** The signature that a ZeroMQ peer sends at once (rfc.zeromq.org/spec/23): this, eight bytes, and {@link SIGNATURE_END}. */
const SIGNATURE_START = 0xff
const SIGNATURE_END = 0x7f
const SIGNATURE_BYTES = 10

/**
 * Watches a connection's handshakes until the first one succeeds, or is refused for good. A coordinator with another secret closes the
 * connection without a word, which would otherwise show as a deadline only: `onError` gets `RENDEZVOUS_REJECTED` instead. `secured` says
 * whether this side has a secret.
 */
export function watchHandshakes(dealer: Dealer, address: string, secured: boolean, onError: (error: CkptError) => void): void {
  let refused = 0
  let there = false
  let settled = false
  const refuse = (why: string) => {
    settled = true
    const fields = { peer: address, field: 'token' }
    onError(new CkptError('RENDEZVOUS_REJECTED', `the coordinator at ${address} ${why}`, { fields }))
  }
  const closed = async () => {
    if (++refused !== REFUSALS) return
    // A proxy before a coordinator that is down closes connections as well, so only what it closes while it is there counts.
    const before = there
    there = await greets(address)
    if (settled) return
    if (there && before) {
      refuse(
        `closed the connection ${REFUSALS} times in the handshake: the token of this rank is not the one of the run (where neither CKPT_TOKEN nor CKPT_TOKEN_FILE is set: that of its user on its machine)`,
      )
    } else refused = 0
  }
  const watch = async () => {
    // Events must be read to the end: ZeroMQ's thread waits for whoever asked for them, with all its other sockets.
    for await (const event of dealer.events) {
      settled ||= event.type === 'handshake'
      if (settled || !event.type.startsWith('handshake:error')) continue
      if (event.type === 'handshake:error:protocol' && mismatched(event.error)) {
        refuse(
          secured
            ? 'does without a secret (CKPT_INSECURE), but this rank has one'
            : 'uses a secret, but this rank has none (CKPT_INSECURE): set CKPT_TOKEN or CKPT_TOKEN_FILE',
        )
      } else if (secured) void closed()
    }
  }
  // The events end with the socket; what goes wrong with them is no reason to lose a connection.
  watch().catch(() => undefined)
}

function mismatched(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ERR_ZMTP_MECHANISM_MISMATCH'
}

/** Whether something that speaks ZeroMQ answers there. */
function greets(address: string): Promise<boolean> {
  const { host, port } = parseAddress(address, 'address')
  return new Promise((resolve) => {
    let greeting = Buffer.alloc(0)
    const socket = connect({ host, port, timeout: GREETING_MS }).unref()
    const end = () => {
      socket.destroy()
      resolve(
        greeting.length >= SIGNATURE_BYTES &&
          greeting[0] === SIGNATURE_START &&
          greeting[SIGNATURE_BYTES - 1] === SIGNATURE_END,
      )
    }
    socket.on('data', (bytes: Buffer) => {
      greeting = Buffer.concat([greeting, bytes])
      if (greeting.length >= SIGNATURE_BYTES) end()
    })
    socket.on('close', end).on('timeout', end).on('error', end)
  })
}
