import { readFile } from 'node:fs/promises'
import { isIPv4, type Socket } from 'node:net'
import { endianness } from 'node:os'

const asked = new WeakMap<Socket, Promise<boolean>>()

/**
 * Whether a TCP connection over the loopback interface was made by a process of this process's user, or of root. The system lists whose a
 * connection's other end is (proc_net_tcp(5)); where it does not, the answer is no.
 */
export function fromOwnUser(socket: Socket): Promise<boolean> {
  let answer = asked.get(socket)
  if (answer === undefined) {
    answer = peerUser(socket).then((user) => user === 0 || user === process.geteuid?.())
    asked.set(socket, answer)
  }
  return answer
}

async function peerUser({ remoteAddress, remotePort, localAddress, localPort }: Socket): Promise<number | undefined> {
  if (remoteAddress === undefined || localAddress === undefined) return undefined
  for (const file of ['tcp', 'tcp6'] as const) {
    // The other end's own line: its local address is our remote one.
    const local = `${listed(remoteAddress, file)}:${port(remotePort)}`
    const remote = `${listed(localAddress, file)}:${port(localPort)}`
    const text = await readFile(`/proc/net/${file}`, 'utf8').catch(() => '')
    for (const line of text.split('\n')) {
      const [, localOf, remoteOf, , , , , user, , inode] = line.trim().split(/\s+/)
      // A connection that its process has closed is nobody's, and is listed as root's.
      if (localOf === local && remoteOf === remote && inode !== '0') return Number(user)
    }
  }
  return undefined
}

function port(number: number | undefined): string {
  return (number ?? 0).toString(16).toUpperCase().padStart(4, '0')
}

/** An address as the system lists it: words of four bytes in hexadecimal, in the machine's order of bytes. */
function listed(address: string, file: 'tcp' | 'tcp6'): string {
  const bare = address.replace(/^::ffff:(?=\d+\.)/i, '')
  const v4 = isIPv4(bare) ? Buffer.from(bare.split('.').map(Number)) : undefined
  if (file === 'tcp') return v4 ? words(v4) : ''
  if (v4) return words(Buffer.concat([Buffer.alloc(10), Buffer.from([255, 255]), v4]))
  // Of loopback addresses there is one more.
  return bare === '::1' ? words(Buffer.concat([Buffer.alloc(15), Buffer.from([1])])) : ''
}

function words(bytes: Buffer): string {
  const ordered = endianness() === 'LE' ? Buffer.from(bytes).swap32() : bytes
  return ordered.toString('hex').toUpperCase()
}
