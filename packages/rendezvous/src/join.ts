import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'

import type { Rendezvous } from '@ckpt/contract'

import { connectLink } from './client/link.ts'
import { RankRendezvous } from './client/rendezvous.ts'
import { Session } from './client/session.ts'
import { CoordinatorHost } from './coordinator/host.ts'
import { coordinatorLost } from './errors.ts'
import { checkJoinOptions, type JoinOptions } from './options.ts'
import { curveClient } from './wire/curve.ts'
import { PROTOCOL } from './wire/messages.ts'

/**
 * Joins as one rank. Rank 0 also runs the coordinator, unless it is `standalone`; when rank 0 closes, the others lose it. The coordinator may
 * come up later than the ranks, up to their deadline. After a membership ended (`RANK_LOST`), join again: that is a new incarnation.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the option, `RENDEZVOUS_REJECTED` (wrong token or world size, rank taken), `RANK_MISSING`
 * when the coordinator does not answer in time, `ABORTED` by the signal.
 */
export async function joinRendezvous(options: JoinOptions): Promise<Rendezvous> {
  const { settings, address, timeoutMs } = checkJoinOptions(options)
  const { rank, worldSize, standalone = false, signal } = options
  const incarnation = randomBytes(16).toString('hex')
  const curve = worldSize > 1 || standalone ? await curveClient(settings.token) : undefined
  const host = rank === 0 && !standalone ? new CoordinatorHost(settings) : undefined
  let session: Session | undefined
  try {
    if (host && worldSize > 1) await host.listen(options.bind ?? address)
    const coordinator = standalone ? `the coordinator at ${address}` : `rank 0 (the coordinator at ${address})`
    session = new Session(
      coordinator,
      (why) => coordinatorLost(address, !standalone, why),
      (onMessage, onError) => host?.linkLocal(onMessage) ?? connectLink(address, incarnation, curve, onMessage, onError),
    )
    await session.join(
      {
        type: 'join',
        protocol: PROTOCOL,
        rank,
        worldSize,
        incarnation,
        token: settings.token,
        host: hostname(),
        pid: process.pid,
      },
      timeoutMs,
      signal,
    )
    return new RankRendezvous({ rank, worldSize, coordinator, timeoutMs }, session)
  } catch (error) {
    await session?.close(coordinatorLost(address, !standalone, 'was not joined'))
    await host?.close()
    throw error
  }
}
