import { CkptError, type WorkerEndpoint } from '@ckpt/contract'

/** One engine instance, as far as an update needs it. */
export interface Instance {
  /** Its ranks' endpoints, in the order of its workers. */
  readonly endpoints: readonly WorkerEndpoint[]
  /** Rank that makes the instance's single call. */
  readonly leader: number
}

/**
 * Returns the instance of the rank's worker: `parallelSize` consecutive ranks of the participating ones. Undefined for a rank
 * that does not take part.
 *
 * @throws CkptError `INVALID_ARGUMENT` if the ranks do not form whole instances.
 */
export function instanceOf(endpoints: readonly WorkerEndpoint[], rank: number, parallelSize: number): Instance | undefined {
  if (endpoints.length % parallelSize !== 0) {
    const ranks = endpoints.map((endpoint) => endpoint.rank)
    const text = `${ranks.length} ranks do not form whole engine instances of ${parallelSize} workers`
    throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'parallelSize', ranks } })
  }
  const sorted = [...endpoints].sort((a, b) => a.rank - b.rank)
  const position = sorted.findIndex((endpoint) => endpoint.rank === rank)
  if (position === -1) return undefined
  const first = position - (position % parallelSize)
  return { endpoints: sorted.slice(first, first + parallelSize), leader: sorted[first]!.rank }
}
