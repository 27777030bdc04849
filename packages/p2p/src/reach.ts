import {
  CkptError,
  type AccessPoint,
  type OneSided,
  type OneSidedPeer,
  type RankAccess,
  type ReachedRank,
} from '@ckpt/contract'
import { isSourceFailure } from '@ckpt/staging'
import { hostOf, INTERFACE_VARIABLE, isLoopbackHost } from './serving/addresses.ts'

/** Time in milliseconds after which a connection attempt counts the source as lost. */
const CONNECT_MS = 10_000

/** Access to the ranks of a checkpoint's manifest, and this rank's endpoints. */
export interface ReachOptions {
  readonly checkpoint: string
  readonly access: readonly RankAccess[]
  readonly endpoints: readonly OneSided[]
}

/**
 * Connects to a rank through the best access point that works.
 *
 * @throws CkptError `PEER_LOST`, `PEER_UNAUTHORIZED`, `PEER_PROTOCOL`, or `UNSUPPORTED` if it offers no kind of endpoint that
 * this rank has.
 */
export async function reachRank(
  { access, endpoints, checkpoint }: ReachOptions,
  rank: number,
  { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<ReachedRank> {
  const points = access.find((one) => one.rank === rank)?.points ?? []
  const reach = (endpoint: OneSided, point: AccessPoint): Promise<OneSidedPeer> =>
    endpoint.connect(point.endpoint, { secret: point.secret, timeoutMs: Math.min(timeoutMs, CONNECT_MS), signal })
  let failure: unknown
  // If one access point fails, others may still work.
  for (const point of points) {
    const endpoint = endpoints.find((own) => own.kind === point.endpoint.kind)
    if (endpoint === undefined) continue
    try {
      return { peer: await reach(endpoint, point), point }
    } catch (error) {
      failure ??= error
      if (!isSourceFailure(error)) throw error
    }
  }
  if (failure !== undefined) throw loopbackOnly(points, rank, failure) ?? CkptError.from(failure, 'PEER_LOST')
  const kinds = points.map((point) => point.endpoint.kind).join(', ') || 'nothing'
  throw new CkptError('UNSUPPORTED', `rank ${rank} serves ${checkpoint} over ${kinds}, which this rank cannot read from`, {
    fields: { ranks: [rank], checkpoint },
  })
}

/**
 * Returns the error for a rank that offers only addresses of the loopback interface, which lead to this machine itself;
 * undefined for others.
 */
function loopbackOnly(points: readonly AccessPoint[], rank: number, cause: unknown): CkptError | undefined {
  const addresses = points.flatMap(({ endpoint }) => endpoint.addresses)
  if (!addresses.every((address) => isLoopbackHost(hostOf(address)))) return undefined
  const { code, message } = CkptError.from(cause, 'PEER_LOST')
  const text =
    `${message}. Rank ${rank} offers its memory only at ${addresses.join(', ')}, which only programs of its own machine reach: if that is ` +
    `a different machine, start it with ${INTERFACE_VARIABLE} (such as eth0) or CKPT_P2P_ADDRESS, and save the metas again`
  return new CkptError(code, text, { cause, fields: CkptError.from(cause, 'PEER_LOST').fields })
}
