/**
 * A stranger on the network without a secret, in a separate process. For `{ port, first, count }` of its parent it opens that
 * many connections, sends each the bytes `first` (base64), keeps all that the other side does not close, and answers with the
 * number it opened.
 */
import { connect } from 'node:net'

const AT_ONCE = 20
const EVERY_MS = 5
const HELD_MS = 500
const DEADLINE_MS = 30_000

async function assault({ port, first, count }: { port: number; first: string; count: number }): Promise<{ opened: number }> {
  const bytes = Buffer.from(first, 'base64')
  const report = { opened: 0 }
  const sockets = []
  for (let i = 0; i < count; i++) {
    const socket = connect(port, '127.0.0.1', () => {
      report.opened++
      if (bytes.length > 0) socket.write(bytes)
    })
    sockets.push(socket)
    socket.on('error', () => undefined).resume()
    if (i % AT_ONCE === 0) await new Promise((resolve) => setTimeout(resolve, EVERY_MS))
  }
  const deadline = performance.now() + DEADLINE_MS
  while (report.opened < count && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, EVERY_MS))
  await new Promise((resolve) => setTimeout(resolve, HELD_MS))
  for (const socket of sockets) socket.destroy()
  return report
}

process.on('message', (message: Parameters<typeof assault>[0]) => void assault(message).then((report) => process.send!(report)))
process.on('disconnect', () => process.exit(0))
process.send!('ready')
