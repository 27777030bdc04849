import { CkptError, type OneSidedRequest } from '@ckpt/contract'

/** @throws CkptError `REGION_REFUSED` for a transfer that leaves its region. */
export function checkRanges(
  peer: string,
  { transfers }: Pick<OneSidedRequest, 'transfers'>,
  regions: readonly { readonly bytes: number }[],
): void {
  for (const { source: index, sourceOffset, bytes } of transfers) {
    const region = regions[index]
    // A copy that names no region is the caller's mistake, and is refused as such further down.
    if (region !== undefined && sourceOffset + bytes > region.bytes) {
      throw refused(peer, index, `bytes ${sourceOffset} + ${bytes} leave its ${region.bytes}`)
    }
  }
}

/** Returns the error for a region that cannot be used; `region` is its index in the request. */
export function refused(peer: string, region: number, problem: string, field?: 'closed'): CkptError {
  return new CkptError('REGION_REFUSED', `endpoint ${peer} refuses region ${region}: ${problem}`, {
    fields: { peer, region, ...(field && { field }) },
  })
}
