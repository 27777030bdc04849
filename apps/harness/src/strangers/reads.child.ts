/**
 * A stranger on the network who has seen all its traffic, including the run's one-sided reads, but knows no secret: `node
 * reads.child.ts ENDPOINTS`, a JSON array of `{ address, id, key }` (docs/p2p.md). Holds silent connections, and keeps
 * requesting a region by its right key: without a handshake, with a wrong proof, and with a recorded proof. Reports to its
 * parent what it received.
 */
import { randomBytes } from 'node:crypto'
import { connect, type Socket } from 'node:net'

interface Seen {
  readonly address: string
  readonly id: string
  readonly key: string
}

const endpoints = JSON.parse(process.argv[2]!) as Seen[]
const HELD = 600
/** Bytes of the handshake alone: the endpoint's hello, and the answer that the proof is wrong. */
const HANDSHAKE = 64 + 40
const report = { asked: 0, silent: 0, answered: 0, most: 0, bytes: 0 }
const held = new Set<Socket>()
const overheard = randomBytes(32)

function hello(id: string): Buffer {
  const head = Buffer.alloc(16)
  head.write('CKPTTCP1', 'latin1')
  head.writeUInt32LE(3, 8)
  // No protection, and AES-256-GCM for bytes of regions.
  head[13] = 1
  return Buffer.concat([head, Buffer.from(id, 'hex'), overheard])
}

/** A read of 4096 bytes from the region's start. */
function read(key: string): Buffer {
  const request = Buffer.alloc(24 + 32)
  request.writeUInt32LE(1, 0)
  request.writeUInt32LE(1, 4)
  request.writeBigUInt64LE(7n, 8)
  request.writeBigUInt64LE(4096n, 16)
  Buffer.from(key, 'hex').copy(request, 24)
  request.writeBigUInt64LE(4096n, 48)
  return request
}

function open({ address }: Seen, bytes: Buffer | undefined): void {
  const at = address.lastIndexOf(':')
  let got = 0
  const socket = connect(Number(address.slice(at + 1)), address.slice(0, at))
  held.add(socket)
  socket.on('connect', () => bytes && socket.write(bytes))
  socket.on('data', (data) => (got += data.length))
  socket.on('error', () => undefined)
  socket.on('close', () => {
    held.delete(socket)
    if (got > 0) report.answered++
    report.most = Math.max(report.most, got)
    if (got > HANDSHAKE) report.bytes += got - HANDSHAKE
  })
}

let turn = 0
const timer = setInterval(() => {
  for (const endpoint of endpoints) {
    const proof = turn % 3 === 0 ? Buffer.alloc(0) : turn % 3 === 1 ? randomBytes(32) : overheard
    const greeting = turn % 3 === 0 ? Buffer.alloc(0) : hello(endpoint.id)
    for (let i = 0; i < 4; i++) open(endpoint, Buffer.concat([greeting, proof, read(endpoint.key), read(endpoint.key)]))
    report.asked += 4
    for (let i = 0; i < 20 && held.size < HELD * endpoints.length; i++, report.silent++) open(endpoint, undefined)
  }
  turn++
}, 10)
process.on('message', () => process.send!(report))
process.on('disconnect', () => {
  clearInterval(timer)
  process.exit(0)
})
process.send!('ready')
