import { readFile } from 'node:fs/promises'
import { isIPv4, type Socket } from 'node:net'
import { endianness } from 'node:os'

const asked = new WeakMap<Socket, Promise<boolean>>()

/**
 * Returns true if a process of this process's user, or of root, made a TCP connection over the loopback interface. The system
 * lists the user of a connection's other end (proc_net_tcp(5)); if it does not, the answer is false.
 */
export function fromOwnUser(socket: Socket): Promise<boolean> {
  let answer = asked.get(socket)
  if (answer === undefined) {
    answer = peerUser(socket).then((user) => user === 0 || user === process.geteuid?.())
    asked.set(socket, answer)
  }
  return answer
}

/** Lookups that wait for the next reading of the system's tables. */
let waiting: { readonly socket: Socket; readonly answer: (user: number | undefined) => void }[] = []
let reading = false

/** The tables are long if there are many connections, so one reading serves all lookups that arrived before it began. */
function peerUser(socket: Socket): Promise<number | undefined> {
  return new Promise((answer) => {
    waiting.push({ socket, answer })
    if (!reading) void readTables()
  })
}

async function readTables(): Promise<void> {
  reading = true
  while (waiting.length > 0) {
    const asking = waiting
    waiting = []
    const users = { tcp: await usersIn('tcp'), tcp6: await usersIn('tcp6') }
    for (const { socket, answer } of asking) {
      answer(users.tcp.get(otherEnd(socket, 'tcp')) ?? users.tcp6.get(otherEnd(socket, 'tcp6')))
    }
  }
  reading = false
}

/** Returns the user of each connection of a table, by its two addresses. */
async function usersIn(file: 'tcp' | 'tcp6'): Promise<Map<string, number>> {
  const text = await readFile(`/proc/net/${file}`, 'utf8').catch(() => '')
  const users = new Map<string, number>()
  for (const line of text.split('\n')) {
    const [, local, remote, , , , , user, , inode] = line.trim().split(/\s+/)
    // A connection that its process has closed has no user, and is listed as root's.
    if (inode !== '0' && user !== undefined) users.set(`${local} ${remote}`, Number(user))
  }
  return users
}

/** In the form in which the table lists the other end, whose local address is our remote one. */
function otherEnd({ remoteAddress, remotePort, localAddress, localPort }: Socket, file: 'tcp' | 'tcp6'): string {
  if (remoteAddress === undefined || localAddress === undefined) return ''
  return `${listed(remoteAddress, file)}:${port(remotePort)} ${listed(localAddress, file)}:${port(localPort)}`
}

function port(number: number | undefined): string {
  return (number ?? 0).toString(16).toUpperCase().padStart(4, '0')
}

/** Formats an address like the system: words of four bytes in hexadecimal, in the machine's byte order. */
function listed(address: string, file: 'tcp' | 'tcp6'): string {
  const bare = address.replace(/^::ffff:(?=\d+\.)/i, '')
  const v4 = isIPv4(bare) ? Buffer.from(bare.split('.').map(Number)) : undefined
  if (file === 'tcp') return v4 ? words(v4) : ''
  if (v4) return words(Buffer.concat([Buffer.alloc(10), Buffer.from([255, 255]), v4]))
  // Loopback addresses have one more form.
  return bare === '::1' ? words(Buffer.concat([Buffer.alloc(15), Buffer.from([1])])) : ''
}

function words(bytes: Buffer): string {
  const ordered = endianness() === 'LE' ? Buffer.from(bytes).swap32() : bytes
  return ordered.toString('hex').toUpperCase()
}
