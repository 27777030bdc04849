import { isIPv6 } from 'node:net'
import { CkptError } from '@ckpt/contract'
import { createTcpEndpoint, type TcpProtection } from '@ckpt/transport'
import { advertisedAddresses, INTERFACE_VARIABLE, listeningAddresses } from './addresses.ts'
import { serveRdma, type RdmaUse } from './rdma.ts'
import { newSecret, type ServedEndpoint } from './serving.ts'
import { serveUcx, wireUsesOf, type WireUse } from './wire.ts'

/** Options for serving what this rank holds to joining ranks; missing options come from the environment. */
export interface ServeOptions {
  /**
   * `host:port` to listen on, or only a host. Default: `CKPT_P2P_ADDRESS`, several separated by commas; otherwise the addresses of
   * `interface`; otherwise the address at which the other ranks reach this machine, so loopback if they meet on its loopback
   * interface. Port 0 selects a free port.
   */
  readonly listen?: readonly string[]
  /**
   * Interfaces to listen on, with the syntax of NCCL_SOCKET_IFNAME: prefixes of names separated by commas, `=` for exact names,
   * `^` to exclude (default: `CKPT_INTERFACE`). One address of each is used: IPv4, or IPv6 where that is the only one.
   */
  readonly interface?: string
  /** Addresses under which peers reach it, if these differ from the listening ones (default: `CKPT_P2P_ADVERTISE`). */
  readonly advertise?: readonly string[]
  /** Secret that readers have to prove (default: `CKPT_P2P_SECRET`, otherwise a random one, which travels with the metas). */
  readonly secret?: string
  /** Connections to each rank that is read from (default 4). */
  readonly streams?: number
  /**
   * Niceness of the threads that serve over TCP, 0 to 19 (default: `CKPT_P2P_NICENESS`, otherwise 19). Higher values take less
   * processor time from other work on this machine, and make joins slower if cores are scarce.
   */
  readonly niceness?: number
  /**
   * Protection of bytes that are read over TCP: `authenticated` (default), `encrypted` (or `CKPT_P2P_ENCRYPT=1`), or `none`
   * (`CKPT_TRUSTED_NETWORK=1`) for networks that nobody else can reach. The stronger request of the two sides applies.
   */
  readonly protection?: TcpProtection
  /**
   * Use of RDMA for serving and pulling (default: `CKPT_P2P_RDMA`, otherwise `auto`). `auto`: if devices exist, before TCP;
   * `off`: only TCP; `require`: only RDMA. Selection of devices: docs/rdma.md.
   */
  readonly rdma?: RdmaUse
  /**
   * What moves bytes between ranks (default: `CKPT_WIRE`, otherwise `auto`). `auto`: whatever both ranks have, and of several the
   * one that a short measurement finds fastest; UCX is among them only on a trusted network (`protection` `none`). `ucx`, `verbs`,
   * `tcp`: only that.
   */
  readonly wire?: WireUse
}

/** Name of the variable that holds the secret if metas files should not contain it. */
export const SECRET_VARIABLE = 'CKPT_P2P_SECRET'

/**
 * Creates this rank's endpoints from the options and the environment, best first: RDMA and UCX if they can be used, and TCP.
 * `meetingPoint`: `tcp://host:port` where the ranks meet. `note` receives the reason if RDMA is not used although there are
 * devices.
 */
export async function serve(
  options: ServeOptions,
  environment: NodeJS.ProcessEnv,
  meetingPoint: string | undefined,
  note: (problem: CkptError) => void,
): Promise<ServedEndpoint[]> {
  const listen = await listeningAddresses({
    listen: options.listen ?? (options.interface === undefined ? list(environment['CKPT_P2P_ADDRESS']) : undefined),
    interface: options.interface ?? environment[INTERFACE_VARIABLE],
    meetingPoint,
  })
  const advertise = options.advertise ?? list(environment['CKPT_P2P_ADVERTISE']) ?? (await advertisedAddresses(listen))
  const secret = options.secret ?? secretOf(environment) ?? newSecret()
  const uses = wireUsesOf(options, environment)
  const protection = options.protection ?? protectionOf(environment)
  const hosts = (advertise ?? listen).map((address) => withPort(address).replace(/:\d+$/, ''))
  const bound = withPort(listen[0]!).replace(/:\d+$/, '')
  const common = { listen: bound, advertise: hosts, secret }
  const made = await serveRdma({ use: uses.rdma, ...common }, environment, note)
  made.push(...(await serveUcx({ use: uses.ucx, ...common }, protection === 'none', note)))
  if (!uses.tcp) return made
  const endpoint = createTcpEndpoint({
    listen: listen.map(withPort),
    secret,
    ...(advertise && { advertise: advertise.map(withPort) }),
    niceness: options.niceness ?? nicenessOf(environment),
    protection,
    ...(options.streams !== undefined && { streams: options.streams }),
  })
  return [...made, { endpoint, secret }]
}

/** Returns the secret from the environment. @throws CkptError `INVALID_ARGUMENT` if it is too short. */
export function secretOf(environment: NodeJS.ProcessEnv): string | undefined {
  const secret = environment[SECRET_VARIABLE]
  if (secret === undefined || secret.length >= 16) return secret
  throw new CkptError('INVALID_ARGUMENT', `${SECRET_VARIABLE} must have at least 16 characters`, {
    fields: { field: SECRET_VARIABLE },
  })
}

const TRUSTED_VARIABLE = 'CKPT_TRUSTED_NETWORK'
const ENCRYPT_VARIABLE = 'CKPT_P2P_ENCRYPT'

/** Returns the protection of TCP reads from the environment. @throws CkptError `INVALID_ARGUMENT` naming the variable. */
export function protectionOf(environment: NodeJS.ProcessEnv): TcpProtection {
  const set = (name: string): boolean => {
    const text = environment[name] ?? ''
    if (/^[01]?$/.test(text)) return text === '1'
    throw new CkptError('INVALID_ARGUMENT', `${name} is "${text}", not 0 or 1`, { fields: { field: name } })
  }
  const [trusted, encrypt] = [set(TRUSTED_VARIABLE), set(ENCRYPT_VARIABLE)]
  if (!trusted) return encrypt ? 'encrypted' : 'authenticated'
  if (!encrypt) return 'none'
  throw new CkptError(
    'INVALID_ARGUMENT',
    `${ENCRYPT_VARIABLE}=1 and ${TRUSTED_VARIABLE}=1 are both set; set only one of them`,
    {
      fields: { field: ENCRYPT_VARIABLE },
    },
  )
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
