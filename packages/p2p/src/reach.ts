import { CkptError, type AccessPoint, type Host, type OneSided, type RankAccess, type ReachedRank } from '@ckpt/contract'
import { isSourceFailure } from '@ckpt/staging'
import { hostOf, INTERFACE_VARIABLE, isLoopbackHost } from './serving/addresses.ts'
import { fastestOf } from './wire-choice.ts'

/** Time in milliseconds after which a connection attempt counts the source as lost. */
const CONNECT_MS = 10_000

/** Access to the ranks of a checkpoint's manifest, and this rank's endpoints. */
export interface ReachOptions {
  readonly checkpoint: string
  readonly access: readonly RankAccess[]
  readonly endpoints: readonly OneSided[]
  /** Creates memory for measurements; without it the first listed wire that works is used. */
  readonly host?: Host
}

/** Measurements by this rank's first endpoint and the peer's access points: a second update does not measure again. */
const chosen = new WeakMap<OneSided, Map<string, Pick<ReachedRank, 'point' | 'measured'>>>()

/**
 * Connects to a rank through the best access point that works. If there are several, a short measurement finds the fastest.
 *
 * @throws CkptError `PEER_LOST`, `PEER_UNAUTHORIZED`, `PEER_PROTOCOL`, or `UNSUPPORTED` if it offers no kind of endpoint that
 * this rank has.
 */
export async function reachRank(
  { access, endpoints, checkpoint, host }: ReachOptions,
  rank: number,
  { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<ReachedRank> {
  const points = access.find((one) => one.rank === rank)?.points ?? []
  const usable = points.flatMap((point) => {
    const endpoint = endpoints.find((own) => own.kind === point.endpoint.kind)
    return endpoint === undefined ? [] : [{ endpoint, point }]
  })
  if (usable.length === 0) {
    const kinds = points.map((point) => point.endpoint.kind).join(', ') || 'nothing'
    throw new CkptError('UNSUPPORTED', `rank ${rank} serves ${checkpoint} over ${kinds}, which this rank cannot read from`, {
      fields: { ranks: [rank], checkpoint },
    })
  }
  const own = endpoints[0]!
  const known = chosen.get(own) ?? new Map<string, Pick<ReachedRank, 'point' | 'measured'>>()
  chosen.set(own, known)
  const id = usable.map(({ point }) => point.endpoint.id).join()
  const before = known.get(id)
  // What was fastest before is tried first, and alone.
  const kindBefore = before?.point.endpoint.kind
  const order = [...usable].sort((a, b) => Number(b.endpoint.kind === kindBefore) - Number(a.endpoint.kind === kindBefore))
  const measuring = host !== undefined && before === undefined && usable.length > 1
  const connected: ReachedRank[] = []
  let failure: unknown
  // If one access point fails, others may still work.
  for (const { endpoint, point } of order) {
    try {
      const options = { secret: point.secret, timeoutMs: Math.min(timeoutMs, CONNECT_MS), signal }
      connected.push({ peer: await endpoint.connect(point.endpoint, options), point })
      if (!measuring) break
    } catch (error) {
      failure ??= error
      if (isSourceFailure(error)) continue
      await Promise.all(connected.map(({ peer }) => peer.close()))
      throw error
    }
  }
  if (connected.length === 0) throw loopbackOnly(points, rank, failure) ?? CkptError.from(failure, 'PEER_LOST')
  if (!measuring || connected.length === 1) return { ...connected[0]!, ...(before?.measured && { measured: before.measured }) }
  const { chosen: fastest, measured } = await fastestOf(connected, { host, signal })
  known.set(id, { point: fastest.point, measured })
  return { ...fastest, measured }
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
