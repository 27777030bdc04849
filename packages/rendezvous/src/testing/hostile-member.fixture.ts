/**
 * A hostile member in a separate process. It joins with the secret as rank `rank` of `{ address, token, worldSize, rank }`, its
 * argument, and never reads an answer after the first. When dismissed, it joins again. It reports that it is a member and, on
 * any message of its parent, what it sent.
 */
import { Dealer } from 'zeromq'

import { curveClient } from '../wire/curve.ts'
import { pack, PROTOCOL } from '../wire/messages.ts'

const { address, token, worldSize, rank } = JSON.parse(process.argv[2]!) as {
  address: string
  token: string
  worldSize: number
  rank: number
}
const EACH_MS = 1500
/** Many times the amount that the coordinator may keep. */
const PUBLISHED = Buffer.alloc(4 * 2 ** 20)
const sent = { memberships: 0, gathers: 0, joins: 0, aborts: 0, published: 0, noise: 0 }
const curve = (await curveClient(token))!

const join = (as: number) =>
  pack({
    type: 'join',
    protocol: PROTOCOL,
    rank: as,
    worldSize,
    incarnation: `hostile ${sent.memberships}`,
    token,
    host: 'h',
    pid: 1,
  })
const gather = { type: 'gather', kind: 'value', epoch: null, timeoutMs: 1e6, digest: null }
const error = { code: 'RANK_LOST', message: 'a lie', fields: { rank: 0 } }
const ranks = Array.from({ length: worldSize }, (_, one) => one)

/** One membership: sends all allowed messages in bulk, then forbidden ones. */
async function misbehave(): Promise<void> {
  const socket = new Dealer({ linger: 0, sendHighWaterMark: 8, sendTimeout: 5000, receiveTimeout: 20_000, ...curve })
  socket.connect(address)
  try {
    await socket.send(join(rank))
    await socket.receive()
    sent.memberships++
    if (sent.memberships === 1) process.send!(sent)
    const until = performance.now() + EACH_MS
    for (let id = 1; performance.now() < until; id++) {
      await socket.send([pack({ ...gather, id, key: `k${id}`, ranks: id % 2 === 0 ? ranks : null }), Buffer.alloc(20_000)])
      await socket.send([pack({ type: 'publish', key: `p${sent.published}` }), PUBLISHED])
      await socket.send(pack({ type: 'abort', epoch: id % 50, error }))
      await socket.send(pack({ type: 'want', id, digests: Array.from({ length: 100 }, (_, i) => `d${i}`) }))
      sent.gathers++
      sent.published++
      sent.aborts++
    }
    // Other ranks' places, and invalid messages.
    for (let as = 0; as < worldSize; as += 10) {
      await socket.send(join(as))
      sent.joins++
    }
    for (let i = 0; i < 100; i++) {
      await socket.send(Buffer.alloc(2000, i))
      sent.noise++
    }
  } finally {
    socket.close()
  }
}

process.on('message', () => process.send!(sent))
process.on('disconnect', () => process.exit(0))
for (;;) {
  try {
    await misbehave()
  } catch {
    // Its place stays taken until the coordinator has declared it lost.
  }
  await new Promise((resolve) => setTimeout(resolve, 50))
}
