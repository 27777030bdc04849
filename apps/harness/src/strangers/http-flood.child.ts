/**
 * Somebody who wants nobody else to be heard by an HTTP server: `node http-flood.child.ts PORT KIND [TOKEN]` keeps 2,000 connections of a
 * kind to a port of this machine, opens those again that the server ends, and says when asked what came of it. It ends with its parent.
 */
import { connect, type Socket } from 'node:net'

const [port, kind, token = ''] = process.argv.slice(2)
const HELD = 2000
/** A connection that the server ended is opened again after this long, in milliseconds. */
const AGAIN_MS = 2000
const DRIP_MS = 500

const head = (line: string, more = '') => `${line} HTTP/1.1\r\nhost: localhost:${port}\r\n${more}`
const body = 'content-type: application/json\r\ncontent-length: 100000\r\n\r\n{'

/** What is written at first, and whether single bytes follow for as long as the connection lasts. */
const kinds: Readonly<Record<string, { first: string; drips?: boolean; deaf?: boolean }>> = {
  idle: { first: '' },
  'half headers': { first: head('GET /v1/readyz', 'x-'), drips: true },
  'dripped body': { first: head('GET /v1/healthz', body), drips: true },
  'drip after 401': { first: head('POST /v1/checkpoints/a/files', `authorization: Bearer wrong\r\n${body}`), drips: true },
  'chunked body': { first: head('POST /v1/checkpoints/a/files', 'transfer-encoding: chunked\r\n\r\nffff\r\n'), drips: true },
  'event streams without a token': { first: head('GET /v1/live/events', '\r\n') },
  'event streams with a token': { first: head('GET /v1/live/events', `authorization: Bearer ${token}\r\n\r\n`) },
  pipelined: { first: head('GET /v1/live', '\r\n').repeat(20) },
  'answers that nobody reads': { first: head('GET /live', '\r\n').repeat(20), deaf: true },
}
const { first, drips = false, deaf = false } = kinds[kind!]!
const held = new Set<Socket>()
let made = 0
let ended = 0
let leaving = false

function open(): void {
  const socket = connect(Number(port), '127.0.0.1', () => {
    made++
    if (first !== '') socket.write(first)
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

// Not all at once, so that they are opened and not only asked for.
const opening = setInterval(() => {
  for (let i = 0; i < 100; i++) open()
  if (made + ended < HELD && held.size < HELD) return
  clearInterval(opening)
  process.send!('ready')
}, 20)
if (drips) setInterval(() => held.forEach((socket) => void socket.write('x')), DRIP_MS)
process.on('message', () => process.send!({ made, ended, held: held.size }))
process.on('disconnect', () => {
  leaving = true
  process.exit(0)
})
