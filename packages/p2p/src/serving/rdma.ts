import { CkptError } from '@ckpt/contract'
import {
  assignNics,
  chooseNics,
  createRdmaEndpoint,
  placeOf,
  probeCuda,
  probeRdma,
  type Place,
  type RdmaNic,
} from '@ckpt/transport'
import type { ServedEndpoint } from './serving.ts'

/** Use of RDMA between ranks: if available and before TCP, never, or exclusively. */
export type RdmaUse = 'auto' | 'off' | 'require'

/** Name of the variable that selects it. */
export const RDMA_VARIABLE = 'CKPT_P2P_RDMA'

export interface RdmaServeOptions {
  readonly use: RdmaUse
  /** Host on which peers and the endpoint agree on queue pairs; a free port is used. */
  readonly listen: string
  /** Hosts under which peers reach it. */
  readonly advertise: readonly string[]
  readonly secret: string
}

/** Returns the value of the environment, or else of the option. @throws CkptError `INVALID_ARGUMENT`. */
export function rdmaUseOf(option: RdmaUse | undefined, environment: NodeJS.ProcessEnv): RdmaUse {
  const use = option ?? environment[RDMA_VARIABLE] ?? 'auto'
  if (use === 'auto' || use === 'off' || use === 'require') return use
  throw new CkptError('INVALID_ARGUMENT', `${RDMA_VARIABLE} is "${use}", not auto, off or require`, {
    fields: { field: RDMA_VARIABLE },
  })
}

/**
 * Creates an RDMA endpoint on this rank's share of the machine's NICs, if there are any. A problem is thrown if RDMA is
 * required or `PS_P2P_STORE_RDMA_DEVICES` names devices; otherwise `note` receives it, and no endpoint is created.
 */
export async function serveRdma(
  { use, listen, advertise, secret }: RdmaServeOptions,
  environment: NodeJS.ProcessEnv,
  note: (problem: CkptError) => void,
): Promise<ServedEndpoint[]> {
  if (use === 'off') return []
  try {
    const { problem, devices } = await probeRdma()
    if (devices.length === 0 && use === 'auto' && !named(environment)) return []
    if (problem !== undefined) throw new CkptError('UNSUPPORTED', problem)
    const nics = await ownNics(chooseNics(devices, environment).nics, environment)
    const endpoint = await createRdmaEndpoint({
      listen: `${listen}:0`,
      advertise: advertise.map((host) => `${host}:0`),
      secret,
      nics,
    })
    return [{ endpoint, secret }]
  } catch (error) {
    const failure = CkptError.from(error, 'NATIVE_FAILURE')
    if (use === 'require' || named(environment)) throw failure
    note(failure)
    return []
  }
}

function named(environment: NodeJS.ProcessEnv): boolean {
  return (environment['PS_P2P_STORE_RDMA_DEVICES'] ?? '').trim() !== ''
}

/**
 * Returns the NICs of this rank among the ranks of its machine (`LOCAL_RANK`, `LOCAL_WORLD_SIZE`): all of them if it is alone.
 */
async function ownNics(nics: readonly RdmaNic[], environment: NodeJS.ProcessEnv): Promise<readonly RdmaNic[]> {
  const ranks = whole(environment, 'LOCAL_WORLD_SIZE', 1)
  const rank = whole(environment, 'LOCAL_RANK', 0)
  if (ranks === 1) return nics
  if (rank >= ranks) {
    throw new CkptError('INVALID_ARGUMENT', `LOCAL_RANK is ${rank} of ${ranks}`, { fields: { field: 'LOCAL_RANK' } })
  }
  const { devices } = await probeCuda().catch(() => ({ devices: [] }))
  const gpus = Array.from({ length: ranks }, (_, index): Place => {
    const gpu = devices.length >= ranks ? devices[index] : undefined
    return gpu === undefined ? { path: [], numaNode: -1 } : placeOf(gpu)
  })
  return assignNics(gpus, nics.map(placeOf))[rank]!.map((index) => nics[index]!)
}

function whole(environment: NodeJS.ProcessEnv, name: string, fallback: number): number {
  const text = environment[name]
  if (text === undefined || text === '') return fallback
  const value = Number(text)
  if (Number.isInteger(value) && value >= 0) return value
  throw new CkptError('INVALID_ARGUMENT', `${name} is "${text}", not a whole number`, { fields: { field: name } })
}
