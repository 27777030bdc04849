import { createSocket } from 'node:dgram'
import { lookup } from 'node:dns/promises'
import { BlockList, isIP, isIPv6 } from 'node:net'
import { networkInterfaces, type NetworkInterfaceInfo } from 'node:os'
import { CkptError } from '@ckpt/contract'

/** Network interfaces by name, as the system lists them. */
export type Interfaces = Readonly<Record<string, readonly NetworkInterfaceInfo[] | undefined>>

/** How the listening addresses are chosen: the first one that is present. */
export interface AddressChoice {
  /** `host:port`, or only a host. */
  readonly listen?: readonly string[] | undefined
  /** Names of interfaces, as in {@link interfaceAddresses}. */
  readonly interface?: string | undefined
  /** `tcp://host:port` where the ranks meet. */
  readonly meetingPoint?: string | undefined
}

/** Name of the variable that selects interfaces. */
export const INTERFACE_VARIABLE = 'CKPT_INTERFACE'

const REMEDY = `set ${INTERFACE_VARIABLE} or CKPT_P2P_ADDRESS`

/** Returns the addresses to listen on, without brackets unless a port follows. @throws CkptError `INVALID_ARGUMENT`. */
export async function listeningAddresses({
  listen,
  interface: names,
  meetingPoint,
}: AddressChoice): Promise<readonly string[]> {
  if (listen !== undefined) {
    for (const address of listen) await assertResolved(hostOf(address), `CKPT_P2P_ADDRESS (or serve.listen): ${address}`)
    return listen
  }
  if (names !== undefined && names !== '') return interfaceAddresses(names)
  return [await addressTowards(meetingPoint)]
}

/**
 * Returns the addresses under which peers reach the listening ones if these differ: an address of all interfaces is replaced by
 * the one at which other machines reach this one.
 */
export async function advertisedAddresses(listen: readonly string[]): Promise<readonly string[] | undefined> {
  if (!listen.some((address) => EVERYWHERE.includes(hostOf(address)))) return undefined
  const own = await outwards()
  return listen.map((address) => {
    if (!EVERYWHERE.includes(hostOf(address))) return address
    const port = /:(\d+)$/.exec(isIPv6(address) ? '' : address)?.[1] ?? '0'
    return isIPv6(own) ? `[${own}]:${port}` : `${own}:${port}`
  })
}

/**
 * Returns one address of each interface that is up and that `names` selects: its first of IPv4, otherwise its first global one
 * of IPv6. The syntax is that of NCCL_SOCKET_IFNAME: prefixes separated by commas, `=` before exact names, `^` before the whole
 * list to exclude what it selects. Loopback and Docker's bridges have to be named.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the interfaces that exist, if none is selected
 */
export function interfaceAddresses(names: string, interfaces: Interfaces = networkInterfaces()): string[] {
  const excluding = names.startsWith('^')
  const rest = excluding ? names.slice(1) : names
  const exact = rest.startsWith('=')
  const listed = (exact ? rest.slice(1) : rest).split(',').map((part) => part.trim())
  const matches = (name: string) => listed.some((part) => part !== '' && (exact ? name === part : name.startsWith(part)))
  const selected = Object.entries(interfaces).filter(([name, list]) => {
    if (!excluding) return matches(name)
    return !matches(name) && !isPrivate(name, list ?? [])
  })
  const addresses = selected.flatMap(([, list]) => bestOf(list ?? []) ?? [])
  if (addresses.length > 0) return addresses
  const present = Object.entries(interfaces).map(([name, list]) => `${name} (${bestOf(list ?? []) ?? 'no usable address'})`)
  const text = `${INTERFACE_VARIABLE}=${names} selects no interface with an address; this machine has ${present.join(', ')}`
  throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: INTERFACE_VARIABLE, value: names } })
}

/** Returns true if only processes of this machine reach the host; a name other than `localhost` may refer to anything. */
export function isLoopbackHost(host: string): boolean {
  return host === 'localhost' || (isIP(host) !== 0 && LOOPBACK.check(host, isIPv6(host) ? 'ipv6' : 'ipv4'))
}

/** Returns the host of `host`, `host:port`, `[host]` or `[host]:port`. */
export function hostOf(address: string): string {
  if (isIPv6(address)) return address
  return address.replace(/:\d+$/, '').replace(/^\[|\]$/g, '')
}

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4')
LOOPBACK.addAddress('::1', 'ipv6')
LOOPBACK.addSubnet('::ffff:127.0.0.0', 104, 'ipv6')

const EVERYWHERE: readonly string[] = ['*', '0.0.0.0', '::']

/** Addresses of documentation (RFC 5737 and 3849): a route to them is the default route. Nothing is sent there. */
const ELSEWHERE = ['192.0.2.1', '2001:db8::1'] as const

function isPrivate(name: string, list: readonly NetworkInterfaceInfo[]): boolean {
  return name.startsWith('docker') || list.some(({ internal }) => internal)
}

function bestOf(list: readonly NetworkInterfaceInfo[]): string | undefined {
  const usable = list.filter(({ address }) => !address.toLowerCase().startsWith('fe80:'))
  return (usable.find(({ family }) => family === 'IPv4') ?? usable[0])?.address
}

async function assertResolved(host: string, what: string): Promise<void> {
  if (isIP(host) !== 0 || host === '*') return
  await lookup(host).catch((error: unknown) => {
    const text = `${what}: the name ${host} cannot be resolved; use an address of this machine, or ${INTERFACE_VARIABLE}`
    throw CkptError.from(error, 'INVALID_ARGUMENT', text, { field: 'CKPT_P2P_ADDRESS', value: host })
  })
}

/** Returns the loopback address of this machine: a machine without IPv4 has only the IPv6 one. */
function loopback(): string {
  const has4 = Object.values(networkInterfaces()).some((list) => list?.some(({ address }) => address === '127.0.0.1'))
  return has4 ? '127.0.0.1' : '::1'
}

/**
 * Returns this machine's address on the route to the ranks' meeting point. It is loopback if the meeting point is, or is
 * unknown, so that all ranks are on this machine. A name of this machine may lead to loopback here, and elsewhere to the network:
 * then, and for meeting points of all interfaces, it is the address that other machines reach.
 */
async function addressTowards(meetingPoint: string | undefined): Promise<string> {
  const match = meetingPoint === undefined ? null : /^tcp:\/\/(.+):(\d+)$/.exec(meetingPoint)
  const host = match?.[1]?.replace(/^\[|\]$/g, '') ?? 'localhost'
  if (isLoopbackHost(host)) return loopback()
  if (EVERYWHERE.includes(host)) return await outwards()
  const number = await numberOf(host)
  const address = await routeTo(number, Number(match?.[2]) || 1).catch((error: unknown) => {
    throw CkptError.from(error, 'INVALID_ARGUMENT', `no address of this machine leads to ${host}: ${REMEDY}`)
  })
  return isLoopbackHost(address) ? await outwards() : address
}

async function numberOf(host: string): Promise<string> {
  if (isIP(host) !== 0) return host
  const { address } = await lookup(host).catch((error: unknown) => {
    throw CkptError.from(error, 'INVALID_ARGUMENT', `the name ${host} of the meeting point cannot be resolved: ${REMEDY}`)
  })
  return address
}

/** Returns the address at which other machines reach this one, as far as it is known here; loopback if it has no network. */
async function outwards(): Promise<string> {
  for (const elsewhere of ELSEWHERE) {
    const address = await routeTo(elsewhere, 1).catch(() => undefined)
    if (address !== undefined && !isLoopbackHost(address)) return address
  }
  const listed = Object.entries(networkInterfaces()).filter(([name, list]) => !isPrivate(name, list ?? []))
  return listed.map(([, list]) => bestOf(list ?? [])).find((address) => address !== undefined) ?? loopback()
}

/** Returns the own address on the route to an IP address. Nothing is sent: a datagram socket only looks up the route. */
async function routeTo(address: string, port: number): Promise<string> {
  const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4')
  try {
    return await new Promise<string>((resolve, reject) => {
      socket.once('error', reject)
      socket.once('connect', () => resolve(socket.address().address))
      // A callback would get errors as well, in place of the event.
      socket.connect(port, address)
    })
  } finally {
    socket.close()
  }
}
