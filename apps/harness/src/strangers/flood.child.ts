/**
 * A stranger on the network without the run's secret who tries to block it: `node flood.child.ts PORT`. Keeps opening
 * connections to the port of a coordinator on this machine, some silent, some with garbage, half a handshake, huge frames, or a
 * wrong key, until its parent disconnects; then it reports how many of each it made.
 */
import { connect, type Socket } from 'node:net'
import { curveKeyPair, Dealer } from 'zeromq'

const port = Number(process.argv[2])
const HELD = 1500
const AT_ONCE = 25
/** A greeting of ZMTP 3.1 that requests CURVE. */
const greeting = Buffer.concat([
  Buffer.from('ff00000000000000017f0301', 'hex'),
  Buffer.from('CURVE'.padEnd(20, '\0')),
  Buffer.alloc(32),
])
const kinds: Record<string, Buffer> = {
  silent: Buffer.alloc(0),
  garbage: Buffer.alloc(20_000, 0xff),
  'half a handshake': greeting,
  // A HELLO command of the right size with made-up boxes.
  'made-up handshake': Buffer.concat([greeting, Buffer.from('04c80548454c4c4f0100', 'hex'), Buffer.alloc(192, 7)]),
  'huge frame': Buffer.concat([greeting, Buffer.from('0600000000ffffffff', 'hex'), Buffer.alloc(20_000)]),
  'large command': Buffer.concat([greeting, Buffer.from('0600000000003fffff', 'hex'), Buffer.alloc(4 * 2 ** 20)]),
}
const made: Record<string, number> = {}
const held = new Set<Socket>()

function knock(): void {
  for (const [kind, bytes] of Object.entries(kinds)) {
    if (held.size >= HELD) return
    const socket = connect(port, '127.0.0.1', () => {
      made[kind] = (made[kind] ?? 0) + 1
      socket.write(bytes)
    })
    held.add(socket)
    socket.on('error', () => undefined).on('close', () => held.delete(socket))
    socket.resume()
  }
}

const { publicKey: curveServerKey } = curveKeyPair()
const dealers = Array.from({ length: 20 }, (_, i) => {
  const { publicKey: curvePublicKey, secretKey: curveSecretKey } = curveKeyPair()
  const keys = i % 2 === 0 ? { curveServerKey, curvePublicKey, curveSecretKey } : {}
  const dealer = new Dealer({ linger: 0, reconnectInterval: 1, sendHighWaterMark: 1, ...keys })
  dealer.connect(`tcp://127.0.0.1:${port}`)
  return dealer
})

const timer = setInterval(() => {
  for (let i = 0; i < AT_ONCE; i++) knock()
}, 10)
process.on('message', () => process.send!({ made, held: held.size, strangers: dealers.length }))
process.on('disconnect', () => {
  clearInterval(timer)
  process.exit(0)
})
process.send!('ready')
