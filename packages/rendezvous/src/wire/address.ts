import { lookup } from 'node:dns/promises'
import { BlockList, isIP } from 'node:net'

import { CkptError } from '@ckpt/contract'

/** Splits a `tcp://host:port` address; `host` is without brackets. @throws CkptError `INVALID_ARGUMENT` naming `field`. */
export function parseAddress(address: string, field: string): { host: string; port: number } {
  const match = /^tcp:\/\/(?:\[([0-9a-fA-F:.]+(?:%[\w.-]+)?)\]|([\w.*-]+)):(\d{1,5})$/.exec(address)
  const port = Number(match?.[3])
  if (!match || port > 65_535) {
    throw new CkptError('INVALID_ARGUMENT', `${field}: ${JSON.stringify(address)} is not tcp://host:port`, {
      fields: { field },
    })
  }
  return { host: match[1] ?? match[2]!, port }
}

/** Returns true if only processes of this machine reach the address. A name other than `localhost` may refer to anything. */
export function isLoopback(address: string): boolean {
  const { host } = parseAddress(address, 'address')
  return host === 'localhost' || (isIP(host) !== 0 && LOOPBACK.check(host, isIP(host) === 6 ? 'ipv6' : 'ipv4'))
}

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4')
LOOPBACK.addAddress('::1', 'ipv6')
LOOPBACK.addSubnet('::ffff:127.0.0.0', 104, 'ipv6')

/** Returns true if an endpoint uses IPv6. */
export function isIpv6(endpoint: string): boolean {
  return endpoint.startsWith('tcp://[')
}

/**
 * Returns all endpoints of an address: a name may have several IP addresses, of IPv4 and of IPv6. ZeroMQ itself binds only to
 * IP addresses, and connects to a name's first one.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the address, if its name is unknown.
 */
export async function endpointsOf(address: string): Promise<string[]> {
  const { host, port } = parseAddress(address, 'address')
  const numbers = await numbersOf(host).catch((error: unknown) => {
    throw CkptError.from(error, 'INVALID_ARGUMENT', `${address}: the name cannot be resolved`, {
      field: 'address',
      peer: address,
    })
  })
  return numbers.map((ip) => `tcp://${ip.includes(':') ? `[${ip}]` : ip}:${port === 0 ? '*' : port}`)
}

async function numbersOf(host: string): Promise<string[]> {
  if (host === '*' || isIP(host) !== 0) return [host]
  // Has the same meaning everywhere, even if neither a hosts file nor a name server defines it (RFC 6761, section 6.3).
  if (host === 'localhost') return ['127.0.0.1', '::1']
  const found = await lookup(host, { all: true })
  return [...new Set(found.map((one) => one.address))]
}
