import { CkptError } from '@ckpt/contract'

import type { JoinMessage } from '../wire/messages.ts'

/** One incarnation of a rank, as the coordinator knows it. */
export interface Member {
  readonly rank: number
  /** Routing id of its connection. */
  readonly peer: string
  readonly incarnation: string
  readonly host: string
  readonly pid: number
  /** Time of its last message, by `performance.now()`. */
  heard: number
  /** Reason why it is no longer a member; undefined while it is one. */
  gone: CkptError | undefined
}

/** Members: at most one incarnation of each rank, the latest. */
export class Members {
  readonly #byRank = new Map<number, Member>()
  readonly #byPeer = new Map<string, Member>()

  get(rank: number): Member | undefined {
    return this.#byRank.get(rank)
  }

  byPeer(peer: string): Member | undefined {
    return this.#byPeer.get(peer)
  }

  live(): Member[] {
    return [...this.#byRank.values()].filter((member) => member.gone === undefined)
  }

  /** The latest incarnation of each rank that has joined, ascending by rank. */
  all(): Member[] {
    return [...this.#byRank.values()].sort((a, b) => a.rank - b.rank)
  }

  /** Returns the incarnation of the rank that is, or was just now, alive elsewhere, as far as known. */
  rivalOf(peer: string, { rank, incarnation }: JoinMessage): Member | undefined {
    const known = this.#byRank.get(rank)
    return known?.gone === undefined && known?.incarnation !== incarnation && known?.peer !== peer ? known : undefined
  }

  /** @throws CkptError `RENDEZVOUS_REJECTED` if the rank is already alive elsewhere. */
  add(peer: string, join: JoinMessage): Member {
    const { rank, incarnation, host, pid } = join
    const known = this.#byRank.get(rank)
    const here = this.#byPeer.get(peer)
    if (here && here.rank !== rank) {
      throw new CkptError('RENDEZVOUS_REJECTED', `rank ${here.rank} cannot also join as rank ${rank}`, { fields: { rank } })
    }
    if (known && known.gone === undefined) {
      if (known.peer === peer && known.incarnation === incarnation) return known
      throw taken(known)
    }
    if (known) this.#byPeer.delete(known.peer)
    const member: Member = { rank, peer, incarnation, host, pid, heard: performance.now(), gone: undefined }
    this.#byRank.set(rank, member)
    this.#byPeer.set(peer, member)
    return member
  }

  /** Describes the state of a rank that is waited for, for messages. */
  describe(rank: number): string {
    const member = this.#byRank.get(rank)
    if (!member) return `rank ${rank} (never joined)`
    return member.gone ? `rank ${rank} (lost)` : `rank ${rank} (process ${member.pid} on ${member.host})`
  }
}

/** A rank can be in only one place. */
export function taken({ rank, pid, host, incarnation }: Member): CkptError {
  return new CkptError(
    'RENDEZVOUS_REJECTED',
    `rank ${rank} has already joined: process ${pid} on ${host}, incarnation ${incarnation}`,
    { fields: { rank } },
  )
}
