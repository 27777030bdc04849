import type { JoinMessage } from '../wire/messages.ts'

interface Applicant {
  readonly peer: string
  readonly message: JoinMessage
  readonly at: number
}

/**
 * Who asked to join and has not been answered yet: new incarnations of ranks whose old one has not been found dead, and ranks that are new to
 * the world while others wait for each other.
 */
export class Applicants {
  readonly #contenders = new Map<number, Applicant>()
  #newcomers: Applicant[] = []

  /** Somebody asks for the place of a rank that may still live. Gives the connection of who did so before, and is forgotten. */
  contend(peer: string, message: JoinMessage): string | undefined {
    const before = this.#contenders.get(message.rank)
    this.#contenders.set(message.rank, { peer, message, at: performance.now() })
    return before?.peer === peer ? undefined : before?.peer
  }

  /** The rank lives: who has asked for its place for longer than `ms` milliseconds, and is forgotten. */
  refuse(rank: number, ms: number): Applicant | undefined {
    const applicant = this.#contenders.get(rank)
    if (!applicant || performance.now() - applicant.at < ms) return undefined
    this.#contenders.delete(rank)
    return applicant
  }

  /** The rank is gone: who asked for its place. */
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
