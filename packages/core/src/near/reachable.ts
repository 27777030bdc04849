import { CkptError, type UpdateContext } from '@ckpt/contract'

/**
 * Checks that a rank whose collective does not reach all participating ranks can pull what the others hold. Called before its
 * engine's worker is given anything.
 *
 * @throws CkptError `UNSUPPORTED` naming the ranks that it shares no memory with and cannot read from
 */
export async function assertReachable(
  context: Pick<UpdateContext, 'manifest' | 'rank' | 'ranks' | 'reach' | 'ring'>,
): Promise<void> {
  const { manifest, rank, ranks, ring } = context
  if (ring.members.length === ranks.length) return
  const { access, endpoints } = await context.reach()
  const kinds = new Set(endpoints.map(({ kind }) => kind))
  const served = new Set(access.filter(({ points }) => points.some((p) => kinds.has(p.endpoint.kind))).map((one) => one.rank))
  const held = manifest.ranks.filter(({ tensors }) => tensors.count > 0).map((one) => one.rank)
  const apart = held.filter((other) => !ring.members.includes(other) && !served.has(other))
  if (apart.length === 0) return
  const text =
    `rank ${rank} shares no /dev/shm with rank${apart.length > 1 ? 's' : ''} ${apart.join(', ')}, and has no endpoint by which it could ` +
    'read from there: give containers of one host a common /dev/shm and user (--ipc, one volume), or allow TCP (rdma other than require)'
  throw new CkptError('UNSUPPORTED', text, { fields: { ranks: apart, field: 'host' } })
}
