import { createSocket } from 'node:dgram'
import { lookup } from 'node:dns/promises'
import { isIP, isIPv6 } from 'node:net'
import { networkInterfaces } from 'node:os'
import { CkptError } from '@ckpt/contract'
import { createTcpEndpoint, type TcpProtection } from '@ckpt/transport'
import { rdmaUseOf, serveRdma, type RdmaUse } from './rdma.ts'
import { newSecret, type ServedEndpoint } from './serving.ts'

/** How this rank serves what it holds to ranks that join; what is absent comes from the environment. */
export interface ServeOptions {
  /**
   * `host:port` to listen on, or just a host (default: `CKPT_P2P_ADDRESS`, several separated by commas; else the address of this machine
   * that the other ranks are reached from, so loopback where all are on this machine). Port 0 takes a free one.
   */
  readonly listen?: readonly string[]
  /** Under what peers reach it, where that is not what it listens on (default: `CKPT_P2P_ADVERTISE`). */
  readonly advertise?: readonly string[]
  /**
   * What readers have to prove that they know (default: `CKPT_P2P_SECRET`; else a random one, which travels with the metas).
   */
  readonly secret?: string
  /** Connections to each rank that is read from (default 4). */
  readonly streams?: number
  /**
   * Niceness of the threads that serve over TCP, 0 to 19 (default: `CKPT_P2P_NICENESS`, else 19). The higher, the less of a core they
   * take from what else this machine does, and the longer joins last where cores are short.
   */
  readonly niceness?: number
  /**
   * What protects bytes that are read over TCP: `authenticated` (default), `encrypted` (or `CKPT_P2P_ENCRYPT=1`), or `none`
   * (`CKPT_TRUSTED_NETWORK=1`) for networks that nobody else can reach. The stronger wish of the two sides counts.
   */
  readonly protection?: TcpProtection
  /**
   * Whether to serve, and pull, by RDMA (default: `CKPT_P2P_RDMA`, else `auto`). `auto`: where there are devices, before TCP; `off`: over
   * TCP alone; `require`: by RDMA alone. Which devices: docs/rdma.md.
   */
  readonly rdma?: RdmaUse
}

/** Name of the variable that holds the secret where it is not to stand in metas files. */
export const SECRET_VARIABLE = 'CKPT_P2P_SECRET'

/**
 * This rank's endpoints as the options and the environment say, best first: RDMA where it can be used, and TCP. `meetingPoint`:
 * `tcp://host:port` where the ranks meet. `note` hears why RDMA is not used although there are devices.
 */
export async function serve(
  options: ServeOptions,
  environment: NodeJS.ProcessEnv,
  meetingPoint: string | undefined,
  note: (problem: CkptError) => void,
): Promise<ServedEndpoint[]> {
  const listen = options.listen ?? list(environment['CKPT_P2P_ADDRESS']) ?? [await addressTowards(meetingPoint)]
  const advertise = options.advertise ?? list(environment['CKPT_P2P_ADVERTISE'])
  const secret = options.secret ?? secretOf(environment) ?? newSecret()
  const use = rdmaUseOf(options.rdma, environment)
  const hosts = (advertise ?? listen).map((address) => withPort(address).replace(/:\d+$/, ''))
  const bound = withPort(listen[0]!).replace(/:\d+$/, '')
  const rdma = await serveRdma({ use, listen: bound, advertise: hosts, secret }, environment, note)
  if (use === 'require') return rdma
  const endpoint = createTcpEndpoint({
    listen: listen.map(withPort),
    secret,
    ...(advertise && { advertise: advertise.map(withPort) }),
    niceness: options.niceness ?? nicenessOf(environment),
    protection: options.protection ?? protectionOf(environment),
    ...(options.streams !== undefined && { streams: options.streams }),
  })
  return [...rdma, { endpoint, secret }]
}

/** The secret that the environment gives. @throws CkptError `INVALID_ARGUMENT` when it is too short. */
export function secretOf(environment: NodeJS.ProcessEnv): string | undefined {
  const secret = environment[SECRET_VARIABLE]
  if (secret === undefined || secret.length >= 16) return secret
  throw new CkptError('INVALID_ARGUMENT', `${SECRET_VARIABLE} must have at least 16 characters`, {
    fields: { field: SECRET_VARIABLE },
  })
}

const TRUSTED_VARIABLE = 'CKPT_TRUSTED_NETWORK'
const ENCRYPT_VARIABLE = 'CKPT_P2P_ENCRYPT'

/** What protects TCP reads, as the environment says. @throws CkptError `INVALID_ARGUMENT` naming the variable. */
export function protectionOf(environment: NodeJS.ProcessEnv): TcpProtection {
  const set = (name: string): boolean => {
    const text = environment[name] ?? ''
    if (/^[01]?$/.test(text)) return text === '1'
    throw new CkptError('INVALID_ARGUMENT', `${name} is "${text}", not 0 or 1`, { fields: { field: name } })
  }
  const [trusted, encrypt] = [set(TRUSTED_VARIABLE), set(ENCRYPT_VARIABLE)]
  if (!trusted) return encrypt ? 'encrypted' : 'authenticated'
  if (!encrypt) return 'none'
  throw new CkptError('INVALID_ARGUMENT', `${ENCRYPT_VARIABLE}=1 is set beside ${TRUSTED_VARIABLE}=1; set one of them`, {
    fields: { field: ENCRYPT_VARIABLE },
  })
}

const NICENESS_VARIABLE = 'CKPT_P2P_NICENESS'

function nicenessOf(environment: NodeJS.ProcessEnv): number {
  const text = environment[NICENESS_VARIABLE]
  if (text === undefined || text === '') return 19
  const niceness = Number(text)
  if (Number.isInteger(niceness) && niceness >= 0 && niceness <= 19) return niceness
  throw new CkptError('INVALID_ARGUMENT', `${NICENESS_VARIABLE} is "${text}", not 0 to 19`, {
    fields: { field: NICENESS_VARIABLE },
  })
}

function list(text: string | undefined): string[] | undefined {
  return text === undefined || text === '' ? undefined : text.split(',').map((part) => part.trim())
}

function withPort(address: string): string {
  if (isIPv6(address)) return `[${address}]:0`
  return /:\d+$/.test(address) ? address : `${address}:0`
}

/** The loopback address that this machine has: one without IPv4 has only the other. */
function loopback(): string {
  const has4 = Object.values(networkInterfaces()).some((list) => list?.some(({ address }) => address === '127.0.0.1'))
  return has4 ? '127.0.0.1' : '::1'
}

async function familyOf(host: string): Promise<number> {
  if (isIP(host) !== 0) return isIP(host)
  const { family } = await lookup(host).catch((error: unknown) => {
    throw CkptError.from(error, 'INVALID_ARGUMENT', `the name ${host} has no address: set CKPT_P2P_ADDRESS`)
  })
  return family
}

/** This machine's address on the way to where the ranks meet; loopback where that is on this machine, or not known. */
async function addressTowards(meetingPoint: string | undefined): Promise<string> {
  const match = meetingPoint === undefined ? null : /^tcp:\/\/(.+):(\d+)$/.exec(meetingPoint)
  const host = match?.[1]?.replace(/^\[|\]$/g, '') ?? 'localhost'
  if (['*', '0.0.0.0', '::', 'localhost'].includes(host)) return loopback()
  // Nothing is sent: connecting a datagram socket only looks up the route.
  const socket = createSocket((await familyOf(host)) === 6 ? 'udp6' : 'udp4')
  try {
    return await new Promise<string>((resolve, reject) => {
      socket.once('error', reject)
      socket.connect(Number(match?.[2] ?? 1), host, () => resolve(socket.address().address))
    })
  } catch (error) {
    throw CkptError.from(error, 'INVALID_ARGUMENT', `no address of this machine leads to ${host}: set CKPT_P2P_ADDRESS`)
  } finally {
    socket.close()
  }
}
