/**
 * A stranger who tries to block an HTTP server for others: `node http-flood.child.ts PORT KIND [TOKEN]` keeps 2,000 connections
 * of a kind to a port of this machine, reopens those that the server ends, and reports the result on request. It ends with its
 * parent.
 */
import { connect, type Socket } from 'node:net'

const [port, kind, token = ''] = process.argv.slice(2)
const HELD = 2000
/** Time in milliseconds after which a connection that the server ended is reopened. */
const AGAIN_MS = 2000
const DRIP_MS = 500

const head = (line: string, more = '') => `${line} HTTP/1.1\r\nhost: localhost:${port}\r\n${more}`
const body = 'content-type: application/json\r\ncontent-length: 100000\r\n\r\n{'

/** A head that grows as fast as it is read, and never ends. */
const GROWING = 'x'.repeat(8)

/**
 * Behaviour of a connection: the first bytes; further bytes as long as it lasts, and how often; reading of answers; and an
 * immediate reset.
 */
interface Kind {
  readonly first: string
  readonly drips?: 'slowly' | 'fast'
  readonly deaf?: boolean
  readonly storm?: boolean
}
const kinds: Readonly<Record<string, Kind>> = {
  idle: { first: '' },
  'half headers': { first: head('GET /v1/readyz', 'x-'), drips: 'slowly' },
  'headers that grow': { first: head('GET /v1/readyz', 'x-'), drips: 'fast' },
  'dripped body': { first: head('GET /v1/healthz', body), drips: 'slowly' },
  'drip after 401': { first: head('POST /v1/checkpoints/a/files', `authorization: Bearer wrong\r\n${body}`), drips: 'slowly' },
  'chunked body': {
    first: head('POST /v1/checkpoints/a/files', 'transfer-encoding: chunked\r\n\r\nffff\r\n'),
    drips: 'slowly',
  },
  'event streams without a token': { first: head('GET /v1/live/events', '\r\n') },
  'event streams with a token': { first: head('GET /v1/live/events', `authorization: Bearer ${token}\r\n\r\n`) },
  pipelined: { first: head('GET /v1/live', '\r\n').repeat(200) },
  'open paths': { first: head('GET /v1/healthz', '\r\n').repeat(200) },
  'answers that nobody reads': { first: head('GET /live', '\r\n').repeat(20), deaf: true },
  resets: { first: head('GET /v1/healthz', '\r\n'), storm: true },
  scrapes: { first: head('GET /metrics', '\r\n') },
}
const { first, drips, deaf = false, storm = false } = kinds[kind!]!
const held = new Set<Socket>()
let made = 0
let ended = 0
let leaving = false

function open(): void {
  const socket = connect(Number(port), '127.0.0.1', () => {
    made++
    if (first !== '') socket.write(first)
    if (storm) setImmediate(() => socket.resetAndDestroy())
  })
  held.add(socket)
  socket.on('error', () => undefined)
  socket.on('close', () => {
    ended++
    held.delete(socket)
    if (!leaving) setTimeout(open, AGAIN_MS * (0.5 + Math.random()))
  })
  if (!deaf) socket.resume()
}

// Not all at once, so that they are really opened and not only requested.
const opening = setInterval(() => {
  for (let i = 0; i < 100; i++) open()
  if (made + ended < HELD && held.size < HELD) return
  clearInterval(opening)
  process.send!('ready')
}, 20)
if (drips === 'slowly') setInterval(() => held.forEach((socket) => void socket.write('x')), DRIP_MS)
if (drips === 'fast') {
  setInterval(() => {
    for (const socket of held) if (!socket.connecting && !socket.writableNeedDrain) socket.write(GROWING)
  }, 20)
}
process.on('message', () => process.send!({ made, ended, held: held.size }))
process.on('disconnect', () => {
  leaving = true
  process.exit(0)
})
