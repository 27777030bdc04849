/**
 * A stranger on the network without a secret, in a separate process: for each message `{ port, kind, count }` of its parent it
 * opens that many connections, some at a time, keeps all that the other side does not close, and answers with the numbers of
 * opened and closed ones.
 */
import { connect, type Socket } from 'node:net'

/** Bytes that a stranger sends: some at once, and then some repeatedly. */
export interface Kind {
  readonly first: string
  readonly again: string
}
export interface Assault {
  readonly port: number
  /** In base64. */
  readonly kind: Kind
  readonly count: number
}
export interface Report {
  readonly opened: number
  readonly closed: number
}

const AT_ONCE = 20
const EVERY_MS = 5

let dripping: { socket: Socket; bytes: Buffer }[] = []
setInterval(() => {
  dripping = dripping.filter(({ socket }) => !socket.destroyed)
  for (const { socket, bytes } of dripping) if (socket.writableLength < 2 ** 20) socket.write(bytes)
}, EVERY_MS).unref()

async function assault({ port, kind, count }: Assault): Promise<Report> {
  const [first, again] = [Buffer.from(kind.first, 'base64'), Buffer.from(kind.again, 'base64')]
  const report = { opened: 0, closed: 0 }
  const sockets: Socket[] = []
  for (let i = 0; i < count; i++) {
    const socket = connect(port, '127.0.0.1')
    sockets.push(socket)
    socket.on('error', () => undefined)
    socket.on('close', () => report.closed++)
    socket.on('data', () => undefined)
    socket.on('connect', () => {
      report.opened++
      if (first.length > 0) socket.write(first)
      if (again.length > 0) dripping.push({ socket, bytes: again })
    })
    if (i % AT_ONCE === 0) await new Promise((resolve) => setTimeout(resolve, EVERY_MS))
  }
  const deadline = performance.now() + 20_000
  while (report.opened < count && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, EVERY_MS))
  const result = { ...report }
  for (const socket of sockets) socket.destroy()
  return result
}

process.on('message', (message: Assault) => void assault(message).then((report) => process.send!(report)))
process.on('disconnect', () => process.exit(0))
process.send!('ready')
