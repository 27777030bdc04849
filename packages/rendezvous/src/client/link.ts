import { CkptError, requireSocketDescriptors } from '@ckpt/contract'
import { Dealer } from 'zeromq'

import { isIpv6 } from '../wire/address.ts'
import type { CurveClient } from '../wire/curve.ts'
import { FrameSocket, MAX_FRAME_BYTES, type Frames } from '../wire/socket.ts'
import { watchHandshakes } from './handshakes.ts'

/** One rank's connection to the coordinator. Messages arrive in the order in which they were sent. */
export interface Link {
  send(frames: Frames): void
  /** Sends queued messages, then closes; does not wait for the coordinator if it is likely `gone`. */
  close(gone?: boolean): Promise<void>
}

/**
 * Connects to a coordinator at an endpoint (an IP address, not a name), which may come up later. `routingId` has at most 255
 * ASCII characters, must be unique and must not be guessable. `onError` is called with `RENDEZVOUS_REJECTED` if the coordinator
 * has a different secret.
 */
export function connectLink(
  address: string,
  routingId: string,
  curve: CurveClient | undefined,
  onMessage: (frames: Frames) => void,
  onError: (error: CkptError) => void,
): Link {
  requireSocketDescriptors(`the connection to the coordinator at ${address}`)
  const dealer = new Dealer({
    ipv6: isIpv6(address),
    sendHighWaterMark: 0,
    maxMessageSize: MAX_FRAME_BYTES,
    ...curve,
  })
  dealer.routingId = routingId
  watchHandshakes(dealer, address, curve !== undefined, onError)
  try {
    dealer.connect(address)
  } catch (error) {
    dealer.close()
    throw CkptError.from(error, 'INVALID_ARGUMENT', `cannot connect to ${address}`, { field: 'address', peer: address })
  }
  return new FrameSocket(dealer, onMessage, (error) => {
    onError(
      CkptError.from(error, 'NATIVE_FAILURE', `the connection to the coordinator at ${address} failed`, { peer: address }),
    )
  })
}
