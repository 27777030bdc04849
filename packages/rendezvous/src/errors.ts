import { CkptError } from '@ckpt/contract'

/** The error that the ranks of an aborted epoch see: `rank` aborted it because of `cause`. */
export function abortedError(epoch: number, rank: number, cause: CkptError): CkptError {
  return new CkptError('ABORTED', `rank ${rank} aborted epoch ${epoch}: ${cause.message}`, { fields: { rank, epoch }, cause })
}

/** A rank that is a member no more. */
export function rankLost(rank: number, why: string): CkptError {
  return new CkptError('RANK_LOST', why, { fields: { rank, ranks: [rank] } })
}

/** The coordinator is gone; `embedded` says that it was rank 0's. */
export function coordinatorLost(address: string, embedded: boolean, why: string): CkptError {
  const name = embedded ? `rank 0 (the coordinator at ${address})` : `the coordinator at ${address}`
  return new CkptError('RANK_LOST', `${name} ${why}`, { fields: { peer: address, ...(embedded && { rank: 0, ranks: [0] }) } })
}

/** An option that is wrong, by name. */
export function invalid(field: string, why: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', `${field}: ${why}`, { fields: { field } })
}
