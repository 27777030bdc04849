import { CkptError } from '@ckpt/contract'
import type { Dealer } from 'zeromq'

/** A coordinator that is just going down breaks handshakes too, but not so many in a row. */
const REFUSALS = 3

/**
 * Watches a connection's handshakes until the first one succeeds, or is refused for good. A coordinator with another secret closes the
 * connection without a word, which would otherwise show as a deadline only: `onError` gets `RENDEZVOUS_REJECTED` instead. `secured` says
 * whether this side has a secret.
 */
export function watchHandshakes(dealer: Dealer, address: string, secured: boolean, onError: (error: CkptError) => void): void {
  let refused = 0
  let settled = false
  const refuse = (why: string) => {
    settled = true
    const fields = { peer: address, field: 'token' }
    onError(new CkptError('RENDEZVOUS_REJECTED', `the coordinator at ${address} ${why}`, { fields }))
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
      } else if (++refused >= REFUSALS && secured) {
        refuse(
          `closed the connection ${refused} times in the handshake: the token of this rank is not the one of the run (where neither CKPT_TOKEN nor CKPT_TOKEN_FILE is set: that of its user on its machine)`,
        )
      }
    }
  }
  // The events end with the socket; what goes wrong with them is no reason to lose a connection.
  watch().catch(() => undefined)
}

function mismatched(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ERR_ZMTP_MECHANISM_MISMATCH'
}
