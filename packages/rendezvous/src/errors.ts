import { CkptError } from '@ckpt/contract'

/** Returns the error that the ranks of an aborted epoch see: `rank` aborted it because of `cause`. */
export function abortedError(epoch: number, rank: number, cause: CkptError): CkptError {
  return new CkptError('ABORTED', `rank ${rank} aborted epoch ${epoch}: ${cause.message}`, { fields: { rank, epoch }, cause })
}

/** Returns the error for a rank that is no longer a member. */
export function rankLost(rank: number, why: string): CkptError {
  return new CkptError('RANK_LOST', why, { fields: { rank, ranks: [rank] } })
}

/** Returns the error for a lost coordinator; `embedded` is true for that of rank 0. */
export function coordinatorLost(address: string, embedded: boolean, why: string): CkptError {
  const name = embedded ? `rank 0 (the coordinator at ${address})` : `the coordinator at ${address}`
  return new CkptError('RANK_LOST', `${name} ${why}`, { fields: { peer: address, ...(embedded && { rank: 0, ranks: [0] }) } })
}

/** Returns the error for a wrong option, by name. */
export function invalid(field: string, why: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', `${field}: ${why}`, { fields: { field } })
}
