import type { JoinMessage } from '../wire/messages.ts'

interface Applicant {
  readonly peer: string
  readonly message: JoinMessage
  readonly at: number
}

/**
 * Join requests without an answer so far: new incarnations of ranks whose old one has not been declared dead, and ranks that
 * are new to the world while others wait for each other.
 */
export class Applicants {
  readonly #contenders = new Map<number, Applicant>()
  #newcomers: Applicant[] = []

  /**
   * Records a request for the place of a rank that may still be alive. Returns the connection of an earlier request, which is
   * forgotten.
   */
  contend(peer: string, message: JoinMessage): string | undefined {
    const before = this.#contenders.get(message.rank)
    this.#contenders.set(message.rank, { peer, message, at: performance.now() })
    return before?.peer === peer ? undefined : before?.peer
  }

  /** The rank is alive: returns a request that is older than `ms` milliseconds, and forgets it. */
  refuse(rank: number, ms: number): Applicant | undefined {
    const applicant = this.#contenders.get(rank)
    if (!applicant || performance.now() - applicant.at < ms) return undefined
    this.#contenders.delete(rank)
    return applicant
  }

  /** The rank has been lost: returns the request for its place. */
  admit(rank: number): Applicant | undefined {
    const applicant = this.#contenders.get(rank)
    this.#contenders.delete(rank)
    return applicant
  }

  newcomer(peer: string, message: JoinMessage): void {
    this.#newcomers = [...this.#newcomers.filter((one) => one.peer !== peer), { peer, message, at: performance.now() }]
  }

  takeNewcomers(): readonly Applicant[] {
    const all = this.#newcomers
    this.#newcomers = []
    return all
  }
}
