import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'

import type { Rendezvous } from '@ckpt/contract'

import { findCoordinator } from './client/find-coordinator.ts'
import { connectLink } from './client/link.ts'
import { RejoiningRendezvous } from './client/rejoining.ts'
import { RankRendezvous } from './client/rendezvous.ts'
import { Session } from './client/session.ts'
import { CoordinatorHost } from './coordinator/host.ts'
import { coordinatorLost } from './errors.ts'
import { checkJoinOptions, DEFAULT_TIMEOUT_MS, type JoinOptions } from './options.ts'
import { curveClient } from './wire/curve.ts'
import { PROTOCOL } from './wire/messages.ts'

/**
 * Joins as one rank. Rank 0 also runs the coordinator, unless it is `standalone`; when rank 0 closes, the others lose it. The
 * coordinator may start later than the ranks, up to their deadline. After a membership ended (`RANK_LOST`), join again, which
 * is a new incarnation, or use `rejoin`.
 *
 * @throws CkptError `INVALID_ARGUMENT` naming the option, `RENDEZVOUS_REJECTED` (wrong token or world size, rank taken),
 * `RANK_MISSING` if the coordinator does not answer in time, `ABORTED` by the signal.
 */
export async function joinRendezvous(options: JoinOptions): Promise<Rendezvous> {
  const member = await enter(options)
  const { rank, standalone = false, rejoin = false, signal: _, timeoutMs = DEFAULT_TIMEOUT_MS, ...rest } = options
  // The coordinator in this process lives as long as the rank.
  if (!rejoin || (rank === 0 && !standalone)) return member
  return new RejoiningRendezvous(member, timeoutMs, ({ timeoutMs: within, ...call }) =>
    enter({ ...rest, rank, standalone, timeoutMs, ...call }, within),
  )
}

async function enter(options: JoinOptions, withinMs?: number): Promise<RankRendezvous> {
  const { settings, addresses, timeoutMs } = checkJoinOptions(options)
  const { rank, worldSize, standalone = false, elastic = false, signal, onWaiting } = options
  const alone = worldSize === 1 && !standalone && !elastic
  const incarnation = randomBytes(16).toString('hex')
  const curve = alone ? undefined : await curveClient(settings.token, settings.run)
  const deadline = performance.now() + (withinMs ?? timeoutMs)
  const left = () => Math.max(1, deadline - performance.now())
  const host = rank === 0 && !standalone ? new CoordinatorHost(settings) : undefined
  let session: Session | undefined
  let at = addresses[0]!
  try {
    if (host && !alone) await host.listen(options.bind === undefined ? addresses : [options.bind])
    const endpoint = host ? at : await findCoordinator(addresses, curve, { timeoutMs: left(), signal, rank, onWaiting })
    if (!host && addresses.length > 1) at = endpoint
    const coordinator = standalone ? `the coordinator at ${at}` : `rank 0 (the coordinator at ${at})`
    session = new Session(
      { name: coordinator, rank, onWaiting },
      (why) => coordinatorLost(at, !standalone, why),
      (onMessage, onError) => host?.linkLocal(onMessage) ?? connectLink(endpoint, incarnation, curve, onMessage, onError),
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
      left(),
      signal,
    )
    return new RankRendezvous({ rank, coordinator, token: settings.token, timeoutMs }, session)
  } catch (error) {
    await session?.close(coordinatorLost(at, !standalone, 'was not joined'))
    await host?.close()
    throw error
  }
}
