import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'

import { CkptError } from '@ckpt/contract'

/** Parts of a `tcp://host:port` address; `host` without brackets. @throws CkptError `INVALID_ARGUMENT` naming `field`. */
export function parseAddress(address: string, field: string): { host: string; port: number } {
  const match = /^tcp:\/\/(?:\[([0-9a-fA-F:.%\w]+)\]|([\w.*-]+)):(\d{1,5})$/.exec(address)
  const port = Number(match?.[3])
  if (!match || port > 65_535) {
    throw new CkptError('INVALID_ARGUMENT', `${field}: ${JSON.stringify(address)} is not tcp://host:port`, {
      fields: { field },
    })
  }
  return { host: match[1] ?? match[2]!, port }
}

/** Whether only processes of this machine reach the address. A name that is not `localhost` may stand for anything. */
export function isLoopback(address: string): boolean {
  const { host } = parseAddress(address, 'address')
  return host === 'localhost' || host === '::1' || /^127(?:\.\d{1,3}){3}$/.test(host)
}

/** The endpoint to bind for an address whose host may be a name; ZeroMQ itself binds to numbers and interfaces only. */
export async function bindEndpoint(address: string): Promise<{ endpoint: string; ipv6: boolean }> {
  const { host, port } = parseAddress(address, 'address')
  let ip = host
  if (host !== '*' && isIP(host.split('%')[0]!) === 0) {
    try {
      ip = (await lookup(host)).address
    } catch (error) {
      throw CkptError.from(error, 'INVALID_ARGUMENT', `cannot listen on ${address}`, { field: 'address', peer: address })
    }
  }
  const ipv6 = ip.includes(':')
  return { endpoint: `tcp://${ipv6 ? `[${ip}]` : ip}:${port === 0 ? '*' : port}`, ipv6 }
}
