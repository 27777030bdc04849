import { connect } from 'node:net'

import { CkptError } from '@ckpt/contract'
import type { Dealer } from 'zeromq'

import { parseAddress } from '../wire/address.ts'

/** A coordinator that is shutting down also breaks handshakes, but not this many in a row. */
const REFUSALS = 3
/** Time in milliseconds for a coordinator to identify itself. */
const GREETING_MS = 2000
/** Signature that a ZeroMQ peer sends at once (rfc.zeromq.org/spec/23): this, eight bytes, and {@link SIGNATURE_END}. */
const SIGNATURE_START = 0xff
const SIGNATURE_END = 0x7f
const SIGNATURE_BYTES = 10

/**
 * Watches a connection's handshakes until the first one succeeds, or is finally refused. A coordinator with a different secret
 * closes the connection without a message, which would otherwise appear only as a deadline: `onError` gets
 * `RENDEZVOUS_REJECTED` instead. `secured` is true if this side has a secret.
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
    // A proxy in front of a coordinator that is down also closes connections, so only closed connections at a running
    // coordinator count.
    const before = there
    there = await greets(address)
    if (settled) return
    if (there && before) {
      refuse(
        `closed the connection ${REFUSALS} times in the handshake: the token of this rank differs from that of the run (if neither CKPT_TOKEN nor CKPT_TOKEN_FILE is set, it is that of its user on its machine)`,
      )
    } else refused = 0
  }
  const watch = async () => {
    // Events must be read until the end: ZeroMQ's thread waits for their reader, with all its other sockets.
    for await (const event of dealer.events) {
      settled ||= event.type === 'handshake'
      if (settled || !event.type.startsWith('handshake:error')) continue
      if (event.type === 'handshake:error:protocol' && mismatched(event.error)) {
        refuse(
          secured
            ? 'runs without a secret (CKPT_INSECURE), but this rank has one'
            : 'uses a secret, but this rank has none (CKPT_INSECURE): set CKPT_TOKEN or CKPT_TOKEN_FILE',
        )
      } else if (secured) void closed()
    }
  }
  // The events end with the socket; errors in reading them are no reason to lose a connection.
  watch().catch(() => undefined)
}

function mismatched(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ERR_ZMTP_MECHANISM_MISMATCH'
}

/** Returns true if a ZeroMQ peer answers there. */
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
