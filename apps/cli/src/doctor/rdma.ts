import { accessSync, constants } from 'node:fs'
import type { NodeFacts } from '@ckpt/core'
import { missing, ok, warn, type Check, type Section } from './check.ts'
import type { SystemFiles } from './system-files.ts'

const DEVICES = '/sys/class/infiniband'
interface Port {
  readonly port: number
  readonly state: string
  readonly linkLayer: string
  readonly rate: string
  /** Number of used entries of its GID table. */
  readonly gids: number
}

/** Checks RDMA devices and their requirements: as listed by the kernel, and as found by libibverbs. */
export function rdmaSection(
  files: SystemFiles,
  facts: Pick<NodeFacts, 'rdma' | 'rdmaChoice'>,
  usable: (path: string) => boolean = writable,
): Section {
  const names = files.list(DEVICES)
  if (names.length === 0) {
    const remedy =
      'only P2P over RDMA needs one; if the node has NICs, load their driver and give the container /dev/infiniband'
    return { title: 'RDMA', checks: [missing('rdma.devices', `none (${DEVICES} is absent or empty)`, remedy)] }
  }
  return {
    title: 'RDMA',
    checks: [
      ...names.map((name) => device(files, name)),
      access(files, usable),
      library(facts),
      ...choice(facts),
      peerMemory(files),
    ],
  }
}

function device(files: SystemFiles, name: string): Check {
  const folder = `${DEVICES}/${name}`
  const ports = files.list(`${folder}/ports`).map((port) => portOf(files, `${folder}/ports/${port}`, Number(port)))
  const numaNode = Number(files.text(`${folder}/device/numa_node`) ?? -1)
  const firmware = files.text(`${folder}/fw_ver`)
  const text = ports.map(
    ({ port, state, linkLayer, rate, gids }) => `port ${port} ${state}, ${linkLayer}, ${rate}, ${gids} GIDs`,
  )
  const found = [text.join('; ') || 'no ports', numaNode < 0 ? '' : `NUMA node ${numaNode}`].filter(Boolean).join(', ')
  const facts = { name, ports, numaNode, firmware: firmware ?? null }
  if (ports.some(({ state }) => state === 'ACTIVE')) return ok(`rdma.${name}`, found, facts)
  return warn(
    `rdma.${name}`,
    found,
    'no active port: check cable, switch and subnet manager, or exclude it with NCCL_IB_HCA',
    facts,
  )
}

function portOf(files: SystemFiles, folder: string, port: number): Port {
  const gids = files.list(`${folder}/gids`).map((index) => files.text(`${folder}/gids/${index}`) ?? '')
  return {
    port,
    // The file contains "4: ACTIVE".
    state: (files.text(`${folder}/state`) ?? 'unknown').replace(/^\d+:\s*/, ''),
    linkLayer: files.text(`${folder}/link_layer`) ?? 'unknown',
    rate: files.text(`${folder}/rate`) ?? 'unknown rate',
    gids: gids.filter((gid) => /[1-9a-f]/.test(gid.replace(/^fe80:/, ''))).length,
  }
}

function access(files: SystemFiles, usable: (path: string) => boolean): Check {
  const nodes = files.list('/dev/infiniband').filter((name) => name.startsWith('uverbs'))
  const good = nodes.filter((name) => usable(`/dev/infiniband/${name}`))
  const found = `${good.length} of ${nodes.length} device nodes can be opened`
  if (good.length > 0) return ok('rdma.access', found)
  return missing(
    'rdma.access',
    found,
    'give the container /dev/infiniband: docker run --device /dev/infiniband --cap-add IPC_LOCK',
  )
}

function library({ rdma }: Pick<NodeFacts, 'rdma'>): Check {
  const remedy = 'apt-get install libibverbs1 ibverbs-providers, or copy both from a node that has them'
  if (rdma === undefined) return missing('rdma.verbs', 'the RDMA addon is not loaded', 'see addon.rdma')
  if (!rdma.available) return missing('rdma.verbs', rdma.problem ?? 'no libibverbs', remedy)
  const unusable = rdma.devices.filter(({ problem }) => problem !== undefined)
  const found = `${rdma.path ?? 'libibverbs'} finds ${rdma.devices.length} devices`
  const facts = { path: rdma.path ?? null, dmabuf: rdma.dmabuf, devices: rdma.devices.map(({ name }) => name) }
  if (rdma.devices.length === 0)
    return missing('rdma.verbs', found, 'install the provider of this device: ibverbs-providers', facts)
  if (unusable.length === 0) return ok('rdma.verbs', found, facts)
  const list = unusable.map(({ name, problem }) => `${name} ${problem}`).join('; ')
  return warn(
    'rdma.verbs',
    `${found}, of which ${list}`,
    'give the container /dev/infiniband and the right to lock memory',
    facts,
  )
}

/** Ports that transfers would use, by the variables that select them. */
function choice({ rdmaChoice }: Pick<NodeFacts, 'rdmaChoice'>): Check[] {
  if (rdmaChoice === undefined) return []
  const remedy = 'set PS_P2P_STORE_RDMA_DEVICES or NCCL_IB_HCA to devices with an active port'
  if ('problem' in rdmaChoice) return [missing('rdma.choice', rdmaChoice.problem, remedy)]
  const { nics, source, notes } = rdmaChoice
  const found = `${nics.map(({ device, port, gidIndex }) => `${device}:${port} (GID ${gidIndex})`).join(', ')}, by ${source}`
  return [ok('rdma.choice', notes.length === 0 ? found : `${found}; ${notes.join('; ')}`, { nics, source, notes })]
}

function peerMemory(files: SystemFiles): Check {
  const loaded = ['nvidia_peermem', 'nv_peer_mem'].find((name) => files.list(`/sys/module/${name}`).length > 0)
  return ok('rdma.gpudirect', loaded ?? 'nvidia_peermem is not loaded; transfers from and to host memory do not need it')
}

function writable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK)
    return true
  } catch {
    return false
  }
}
