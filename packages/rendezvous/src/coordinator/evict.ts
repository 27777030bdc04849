import { CkptError, requireSocketDescriptors } from '@ckpt/contract'
import { Dealer } from 'zeromq'

import { isIpv6 } from '../wire/address.ts'
import type { CurveClient } from '../wire/curve.ts'
import { pack, type RankMessage } from '../wire/messages.ts'

/** `ZMQ_ROUTING_ID`; by name the library accepts only strings, but a peer may have chosen any bytes. */
const ROUTING_ID = 5
/** Time in milliseconds for the coordinator's own socket to answer. */
const ANSWER_MS = 5000

/**
 * Ends a peer's connection at a coordinator's socket, which has no call for that. A connection with a peer's routing id takes
 * the peer's connection over (`handover`), and buffered parts of an unfinished message are freed. Only a holder of the run's
 * secret can connect. The coordinator must answer the message sent here.
 *
 * @throws CkptError `NATIVE_FAILURE` if the socket does not answer.
 */
export async function evict(endpoint: string, peer: string, curve: CurveClient | undefined): Promise<void> {
  requireSocketDescriptors('the connection that ends a peer')
  const dealer = new Dealer({ ipv6: isIpv6(endpoint), linger: 0, receiveTimeout: ANSWER_MS, ...curve })
  try {
    const options: { setStringOption(option: number, value: Buffer): void } = dealer as never
    options.setStringOption(ROUTING_ID, Buffer.from(peer, 'hex'))
    dealer.connect(endpoint)
    await dealer.send(pack({ type: 'beat', ended: [] } satisfies RankMessage))
    await dealer.receive()
  } catch (error) {
    throw CkptError.from(error, 'NATIVE_FAILURE', `the connection of peer ${peer} could not be ended`, { peer })
  } finally {
    dealer.close()
  }
}
