import { CkptError, type Manifest, type Reach } from '@ckpt/contract'

/** What decides which ranks this one can read from. */
export interface Reading {
  /** This rank. */
  readonly rank: number
  readonly manifest: Manifest
  /** True if the manifest's ranks are those of another run. */
  readonly joining: boolean
  /** Ranks of this rank's collective; undefined if it reaches all participating ones. */
  readonly members: readonly number[]
  readonly reach: Reach
}

/**
 * Returns the error of a rank that can neither share memory with all holders of a checkpoint nor read from the others; undefined if
 * it can.
 */
export function unreachable({ rank, manifest, joining, members, reach }: Reading): CkptError | undefined {
  const kinds = new Set(reach.endpoints.map(({ kind }) => kind))
  const served = new Set(
    reach.access.filter(({ points }) => points.some(({ endpoint }) => kinds.has(endpoint.kind))).map((one) => one.rank),
  )
  const held = manifest.ranks.filter(({ tensors }) => tensors.count > 0).map((one) => one.rank)
  const apart = held.filter((other) => (joining || !members.includes(other)) && !served.has(other))
  if (apart.length === 0) return undefined
  const others = `rank${apart.length > 1 ? 's' : ''} ${apart.join(', ')}`
  const text =
    `rank ${rank} shares no /dev/shm with ${others}, and they have no kind of endpoint in common by which it could read from there: ` +
    'give containers of one host a common /dev/shm and user (--ipc, one volume), or let all ranks serve over TCP ' +
    '(serve other than false, rdma other than require)'
  return new CkptError('UNSUPPORTED', text, { fields: { ranks: apart, field: 'host' } })
}

/** The same for all participating ranks, as they tell each other: the first one's error. */
export async function unreachableForAny(
  own: CkptError | undefined,
  gather: (key: string, value: Unreached) => Promise<Unreached[]>,
): Promise<CkptError | undefined> {
  const told = own === undefined ? null : { text: own.message, ranks: own.fields['ranks'] ?? [] }
  const first = (await gather('near/unreachable', told)).find((one) => one !== null)
  return first ? new CkptError('UNSUPPORTED', first.text, { fields: { ranks: [...first.ranks], field: 'host' } }) : undefined
}

/** What a rank tells the others. */
export type Unreached = { readonly text: string; readonly ranks: readonly number[] } | null
