/**
 * A member that sends a message without an end, in a separate process. It joins as rank 1 at the address, with the secret and
 * the routing id (hex; none: chosen by the coordinator) of its arguments, then sends frames, none of which is the last, until
 * it is killed.
 */
import { Dealer } from 'zeromq'

import { curveClient } from '../wire/curve.ts'
import { pack, PROTOCOL } from '../wire/messages.ts'

const [, , address, token, routingId = ''] = process.argv
/** Too large for an allocator to keep: it returns to the system as soon as it is freed. */
const FRAME = Buffer.alloc(48 * 2 ** 20)
/** The library sends nothing of a message before it has its last frame. */
const FRAMES = 1000

const socket = new Dealer({ linger: 0, ...(await curveClient(token!)), ...(routingId !== '' && { routingId }) })
socket.connect(address!)
const join = { type: 'join', protocol: PROTOCOL, rank: 1, worldSize: 2, incarnation: 'i', token, host: 'h', pid: 1 }
await socket.send(pack(join))
await socket.receive()
process.send!('joined')
await socket.send([pack({ type: 'publish', key: 'k' }), ...Array.from({ length: FRAMES }, () => FRAME)])
// It stays, whatever happens to the message, and so does the socket, which would end with its last reference.
setInterval(() => socket.closed, 60_000)
