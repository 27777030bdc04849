import { CkptError } from '@ckpt/contract'
import type { RdmaDeviceInfo, RdmaGid, RdmaPort } from '@ckpt/rdma-core-bindings'
import { MOST_HCAS, parseHcaList, selects, type HcaList } from './hca-list.ts'

/** A usable port, with the data for assigning it. */
export interface RdmaNic {
  readonly device: string
  readonly port: number
  readonly linkLayer: 'InfiniBand' | 'Ethernet'
  /** Entry of the GID table to send from. */
  readonly gidIndex: number
  readonly pciBusId: string | undefined
  /** -1 if unknown. */
  readonly numaNode: number
  readonly gigabitsPerSecond: number
}

/** Source of a choice. */
export type ChoiceSource = 'PS_P2P_STORE_RDMA_DEVICES' | 'NCCL_IB_HCA' | 'all devices'

export interface RdmaChoice {
  readonly nics: readonly RdmaNic[]
  readonly source: ChoiceSource
  /** Ports that were left out, with reasons, one sentence each. */
  readonly notes: readonly string[]
}

/** Returns a port's name in the form of `NCCL_IB_HCA`: `mlx5_0:1`. */
export function nicName({ device, port }: Pick<RdmaNic, 'device' | 'port'>): string {
  return `${device}:${port}`
}

/**
 * Returns the ports to use: those that `PS_P2P_STORE_RDMA_DEVICES` names (exact names, separated by commas, each with `:port`
 * to use only that port), otherwise those that `NCCL_IB_HCA` selects, otherwise all; of these the active ones with a usable
 * GID, at most 32, in the order of names (`mlx5_2` before `mlx5_10`), or as listed in `PS_P2P_STORE_RDMA_DEVICES`. An empty
 * variable counts as absent.
 *
 * @throws CkptError `INVALID_ARGUMENT` for a malformed list or an unknown device; `UNSUPPORTED` if no port is left, with the
 * reason for each that was left out.
 */
export function chooseNics(devices: readonly RdmaDeviceInfo[], env: Readonly<Record<string, string | undefined>>): RdmaChoice {
  const named = nonEmpty(env['PS_P2P_STORE_RDMA_DEVICES'])
  const hca = nonEmpty(env['NCCL_IB_HCA'])
  const source: ChoiceSource =
    named !== undefined ? 'PS_P2P_STORE_RDMA_DEVICES' : hca !== undefined ? 'NCCL_IB_HCA' : 'all devices'
  const gidIndex = gidIndexOf(env)
  const notes: string[] = []
  const ordered = devices.toSorted((a, b) => byName(a.name, b.name))
  const candidates = named !== undefined ? namedPorts(named, ordered) : selectedPorts(parseHcaList(hca ?? ''), ordered)
  const nics: RdmaNic[] = []
  for (const { device, port } of candidates) {
    const problem = problemOf(device, port, gidIndex)
    if (typeof problem === 'string') notes.push(problem)
    else if (nics.length === MOST_HCAS) notes.push(`${device.name}:${port!.port} is left out: ${MOST_HCAS} are the most`)
    else nics.push(problem)
  }
  if (nics.length === 0) throw nothingLeft(source, named ?? hca, ordered, notes)
  return { nics, source, notes }
}

interface Candidate {
  readonly device: RdmaDeviceInfo
  /** Absent for a device that cannot be queried. */
  readonly port: RdmaPort | undefined
}

function namedPorts(text: string, devices: readonly RdmaDeviceInfo[]): Candidate[] {
  const variable = 'PS_P2P_STORE_RDMA_DEVICES'
  const wanted = parseHcaList(`=${text}`, variable).entries
  const found = wanted.flatMap(({ name, port: number }): Candidate[] => {
    const device = devices.find((one) => one.name === name)
    const ports = portsOf(device).filter(({ port }) => number === undefined || port?.port === number)
    if (device !== undefined && ports.length > 0) return ports
    const what = number === undefined ? name : `${name}:${number}`
    const there = devices.map((one) => one.name).join(', ') || 'none'
    throw new CkptError('INVALID_ARGUMENT', `${variable} names ${what}; this machine has ${there}`, {
      fields: { field: variable },
    })
  })
  return found.filter(
    (one, index) => found.findIndex((other) => other.device === one.device && other.port === one.port) === index,
  )
}

function selectedPorts(list: HcaList, devices: readonly RdmaDeviceInfo[]): Candidate[] {
  // A device that cannot be queried has no known ports; it represents its first.
  return devices.flatMap((device) => portsOf(device)).filter(({ device, port }) => selects(list, device.name, port?.port ?? 1))
}

function portsOf(device: RdmaDeviceInfo | undefined): Candidate[] {
  if (device === undefined) return []
  if (device.problem !== undefined) return [{ device, port: undefined }]
  return device.ports.map((port) => ({ device, port }))
}

/** Returns the port as a NIC, or the reason why it cannot be one. */
function problemOf(device: RdmaDeviceInfo, port: RdmaPort | undefined, wantedGid: number | undefined): RdmaNic | string {
  if (port === undefined) return `${device.name} is left out: it ${device.problem}`
  const name = `${device.name}:${port.port}`
  if (port.state !== 'ACTIVE') return `${name} is left out: its state is ${port.state}`
  if (port.linkLayer === 'unspecified') return `${name} is left out: it is neither InfiniBand nor Ethernet`
  const gid = wantedGid === undefined ? bestGid(port) : port.gids.find(({ index }) => index === wantedGid)
  if (gid === undefined) {
    return `${name} is left out: ${wantedGid === undefined ? 'it has no RoCE v2 GID' : `it has no GID at index ${wantedGid}`}`
  }
  return {
    device: device.name,
    port: port.port,
    linkLayer: port.linkLayer,
    gidIndex: gid.index,
    pciBusId: device.pciBusId,
    numaNode: device.numaNode,
    gigabitsPerSecond: port.gigabitsPerSecond,
  }
}

/** RoCE v2 with an IPv4 address, then with a routable IPv6 one, then any; on InfiniBand the first entry. */
function bestGid(port: RdmaPort): RdmaGid | undefined {
  if (port.linkLayer === 'InfiniBand') return port.gids[0]
  const usable = port.gids.filter(({ type }) => type === 'RoCE v2')
  const ranked = usable.toSorted((a, b) => rankOfGid(a.gid) - rankOfGid(b.gid) || a.index - b.index)
  return ranked[0]
}

function rankOfGid(gid: string): number {
  if (gid.startsWith('0000:0000:0000:0000:0000:ffff:')) return gid.startsWith('0000:0000:0000:0000:0000:ffff:a9fe:') ? 2 : 0
  return gid.startsWith('fe80:') ? 3 : 1
}

function gidIndexOf(env: Readonly<Record<string, string | undefined>>): number | undefined {
  const text = nonEmpty(env['NCCL_IB_GID_INDEX'])
  // NCCL takes -1 for "choose".
  if (text === undefined || text === '-1') return undefined
  const index = Number(text)
  if (Number.isInteger(index) && index >= 0 && index <= 255) return index
  throw new CkptError('INVALID_ARGUMENT', `NCCL_IB_GID_INDEX is "${text}", not an index from 0 to 255`, {
    fields: { field: 'NCCL_IB_GID_INDEX' },
  })
}

function nothingLeft(
  source: ChoiceSource,
  value: string | undefined,
  devices: readonly RdmaDeviceInfo[],
  notes: readonly string[],
) {
  const what = value === undefined ? 'this machine has' : `${source}="${value}" leaves`
  const there = devices.length === 0 ? 'there is none' : `there are ${devices.map(({ name }) => name).join(', ')}`
  return new CkptError('UNSUPPORTED', [`${what} no usable RDMA port: ${there}`, ...notes].join('; '), {
    fields: { field: source },
  })
}

/** Compares names in natural order. */
function byName(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true })
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === undefined || text.trim() === '' ? undefined : text.trim()
}
