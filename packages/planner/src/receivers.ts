import { CkptError } from '@ckpt/contract'

/** A rank and the NICs it can use, each named uniquely in the cluster. NICs may be shared between ranks. */
export interface Endpoint {
  readonly rank: number
  readonly nics: readonly string[]
}

export interface AssignmentInput {
  /** Owning rank of each bucket, in plan order. */
  readonly owner: Uint32Array
  /** Size of each bucket in bytes. */
  readonly bytes: Float64Array
  readonly sources: readonly Endpoint[]
  readonly receivers: readonly Endpoint[]
}

/** Receiver of each bucket, and the NICs that it crosses (indices into `nics`). */
export interface Assignment {
  readonly receiver: Uint32Array
  readonly sourceNic: Uint32Array
  readonly receiverNic: Uint32Array
  readonly nics: readonly string[]
}

/**
 * Assigns every bucket to one receiver. In plan order, each bucket goes over the least loaded NIC of its owner to the least
 * loaded NIC of the receivers, and there to its least loaded rank; ties go to the one listed first. So no receiver NIC ends
 * above the mean by more than one bucket, and neighbours in the order use different receivers.
 *
 * @throws CkptError `INVALID_ARGUMENT` if there are no receivers, an endpoint has no NIC, or an owner is not among the sources.
 */
export function assignReceivers({ owner, bytes, sources, receivers }: AssignmentInput): Assignment {
  const nics = new NicTable()
  const from = new Map(sources.map(({ rank, nics: names }) => [rank, nics.indices(rank, names)]))
  const to = receivers.flatMap(({ rank, nics: names }, index) => nics.indices(rank, names).map((nic) => ({ rank, nic, index })))
  if (to.length === 0) throw new CkptError('INVALID_ARGUMENT', 'there are no receivers', { fields: { field: 'receivers' } })
  const sent = new Float64Array(nics.names.length)
  const received = new Float64Array(nics.names.length)
  const byRank = new Float64Array(receivers.length)
  const receiver = new Uint32Array(owner.length)
  const sourceNic = new Uint32Array(owner.length)
  const receiverNic = new Uint32Array(owner.length)
  for (let bucket = 0; bucket < owner.length; bucket++) {
    const size = bytes[bucket]!
    const choices = from.get(owner[bucket]!)
    if (choices === undefined) {
      throw new CkptError('INVALID_ARGUMENT', `rank ${owner[bucket]} owns buckets but is not a source`, {
        fields: { field: 'sources', ranks: [owner[bucket]!] },
      })
    }
    let source = choices[0]!
    for (const nic of choices) if (sent[nic]! < sent[source]!) source = nic
    let best = to[0]!
    for (const choice of to) {
      const difference = received[choice.nic]! - received[best.nic]! || byRank[choice.index]! - byRank[best.index]!
      if (difference < 0) best = choice
    }
    sent[source]! += size
    received[best.nic]! += size
    byRank[best.index]! += size
    receiver[bucket] = best.rank
    sourceNic[bucket] = source
    receiverNic[bucket] = best.nic
  }
  return { receiver, sourceNic, receiverNic, nics: nics.names }
}

class NicTable {
  readonly names: string[] = []
  readonly #index = new Map<string, number>()

  indices(rank: number, names: readonly string[]): number[] {
    if (names.length === 0) {
      throw new CkptError('INVALID_ARGUMENT', `rank ${rank} has no NIC`, { fields: { field: 'nics', ranks: [rank] } })
    }
    return names.map((name) => {
      let index = this.#index.get(name)
      if (index === undefined) {
        index = this.names.push(name) - 1
        this.#index.set(name, index)
      }
      return index
    })
  }
}
