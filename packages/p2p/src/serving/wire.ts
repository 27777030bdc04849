import { CkptError } from '@ckpt/contract'
import { createUcxEndpoint, endsProcesses, probeUcx } from '@ckpt/transport'
import { RDMA_VARIABLE, rdmaUseOf, type RdmaServeOptions, type RdmaUse } from './rdma.ts'
import type { ServedEndpoint } from './serving.ts'

/**
 * What moves bytes between ranks. `auto`: whatever both have, and of several the one that a short measurement finds fastest;
 * `ucx`: only UCX; `verbs`: only RDMA by the verbs of libibverbs; `tcp`: only TCP.
 */
export type WireUse = 'auto' | 'ucx' | 'verbs' | 'tcp'

/** Name of the variable that selects it. */
export const WIRE_VARIABLE = 'CKPT_WIRE'

const USES: readonly string[] = ['auto', 'ucx', 'verbs', 'tcp'] satisfies WireUse[]
/** Uses of RDMA that a wire means. */
const RDMA_OF = { verbs: 'require', tcp: 'off', ucx: 'off' } as const

/** Which endpoints this rank creates. */
export interface WireUses {
  readonly rdma: RdmaUse
  readonly ucx: 'auto' | 'off' | 'require'
  readonly tcp: boolean
}

/**
 * Returns the endpoints to create, by the option or else the variable; `CKPT_P2P_RDMA` (or its option) limits `auto`.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming a variable that is not one of its values, or contradicts the other.
 */
export function wireUsesOf(
  options: { readonly wire?: WireUse | undefined; readonly rdma?: RdmaUse | undefined },
  environment: NodeJS.ProcessEnv,
): WireUses {
  const wire = options.wire ?? (environment[WIRE_VARIABLE] || 'auto')
  if (!isWireUse(wire)) throw invalid(`${WIRE_VARIABLE} is "${wire}", not auto, ucx, verbs or tcp`)
  const rdma = rdmaUseOf(options.rdma, environment)
  if (wire === 'auto') return { rdma, ucx: rdma === 'auto' ? 'auto' : 'off', tcp: rdma !== 'require' }
  const meant = RDMA_OF[wire]
  if (rdma !== 'auto' && rdma !== meant) {
    throw invalid(`${WIRE_VARIABLE}=${wire} and ${RDMA_VARIABLE}=${rdma} contradict each other; set only one of them`)
  }
  return { rdma: meant, ucx: wire === 'ucx' ? 'require' : 'off', tcp: wire === 'tcp' }
}

/**
 * Creates a UCX endpoint if the network is trusted, and UCX has a transport for it. A problem is thrown if UCX is required;
 * otherwise `note` receives it, and no endpoint is created.
 *
 * @param trusted - True if nobody else can reach the network: UCX admits whoever reaches its transports.
 */
export async function serveUcx(
  { use, listen, advertise, secret }: RdmaServeOptions & { readonly use: WireUses['ucx'] },
  trusted: boolean,
  note: (problem: CkptError) => void,
): Promise<ServedEndpoint[]> {
  if (use === 'off' || (use === 'auto' && !trusted)) return []
  if (!trusted) {
    throw invalid(
      `${WIRE_VARIABLE}=ucx requires CKPT_TRUSTED_NETWORK=1: whoever reaches UCX's transports can read and write this process's memory`,
    )
  }
  try {
    const { problem, version } = await probeUcx()
    if (problem !== undefined && use === 'auto') return []
    if (version !== undefined && endsProcesses(version) && use === 'auto') {
      const text = `auto does not use UCX ${version}, which can end the process when a connection fails: install 1.14 or newer`
      throw new CkptError('UNSUPPORTED', text)
    }
    const endpoint = await createUcxEndpoint({
      listen: `${listen}:0`,
      advertise: advertise.map((host) => `${host}:0`),
      secret,
    })
    if (endpoint.networkTransports.length > 0) return [{ endpoint, secret }]
    await endpoint.close()
    if (use === 'auto') return []
    throw new CkptError('UNSUPPORTED', 'UCX finds no transport to other machines here; UCX_TLS=tcp allows its own TCP')
  } catch (error) {
    const failure = CkptError.from(error, 'NATIVE_FAILURE')
    if (use === 'require') throw failure
    note(failure)
    return []
  }
}

function isWireUse(text: string): text is WireUse {
  return USES.includes(text)
}

function invalid(message: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', message, { fields: { field: WIRE_VARIABLE } })
}
