import type { GatherKind, GatherMessage } from '../wire/messages.ts'
import type { Member } from './members.ts'

/** What one rank brings to a gather. */
export interface Contribution {
  readonly member: Member
  /** The rank's own id of its wait. */
  readonly id: number
  readonly timeoutMs: number
  readonly digest: string | undefined
  /** Undefined while a blob's payload is still on its way. */
  payload: Uint8Array | undefined
  /** Cancels the deadline. */
  stop: () => void
  /** When this rank is next told whom it waits for (`performance.now()`); never where it would not understand. */
  tellAt: number
}

/** One gather that is under way. */
export interface Gather {
  readonly slot: string
  readonly kind: GatherKind
  readonly key: string
  readonly epoch: number | null
  readonly ranks: readonly number[]
  readonly contributions: Map<number, Contribution>
}

/**
 * Open gathers. Contributions meet by kind, key, epoch and ranks; a rank that already contributed to one opens the next, so that a key may
 * be used again before everybody has read the last result, and gathers of a key complete in the order in which ranks make them.
 */
export class Gathers {
  readonly #slots = new Map<string, Gather[]>()
  /** Gathers that members wait in, by the ids they gave them. */
  readonly #waits = new Map<Member, Map<number, Gather>>()

  /** Keys under which somebody waits. */
  get size(): number {
    return this.#slots.size
  }

  /** The gather that a member waits in under this id. */
  waitOf(member: Member, id: number): Gather | undefined {
    return this.#waits.get(member)?.get(id)
  }

  /** How many gathers a member waits in, and the bytes that it has brought to them. */
  openOf(member: Member): { open: number; bytes: number } {
    const waits = this.#waits.get(member)
    let bytes = 0
    for (const gather of waits?.values() ?? []) bytes += gather.contributions.get(member.rank)?.payload?.byteLength ?? 0
    return { open: waits?.size ?? 0, bytes }
  }

  /** Adds a rank's part to a gather. */
  contribute(gather: Gather, contribution: Contribution): void {
    const { member, id } = contribution
    gather.contributions.set(member.rank, contribution)
    const waits = this.#waits.get(member) ?? new Map<number, Gather>()
    this.#waits.set(member, waits.set(id, gather))
  }

  /** The gather that this rank's message belongs to; opened when there is none. */
  join(message: GatherMessage, ranks: readonly number[], rank: number): Gather {
    const { kind, key, epoch } = message
    const slot = `${kind} ${epoch ?? ''} ${key}`
    const open = this.#slots.get(slot) ?? []
    this.#slots.set(slot, open)
    const known = open.find((gather) => sameRanks(gather.ranks, ranks) && !gather.contributions.has(rank))
    if (known) return known
    const gather: Gather = { slot, kind, key, epoch, ranks, contributions: new Map() }
    open.push(gather)
    return gather
  }

  /**
   * An open gather of the same key that can never complete beside `gather`, because a rank waits in each for one that waits in the other.
   */
  conflict(gather: Gather): Gather | undefined {
    return this.#slots
      .get(gather.slot)
      ?.find((other) => !sameRanks(other.ranks, gather.ranks) && waitsFor(gather, other) && waitsFor(other, gather))
  }

  /** Ranks whose part is missing. */
  missing(gather: Gather): number[] {
    return gather.ranks.filter((rank) => gather.contributions.get(rank)?.payload === undefined)
  }

  /** Contributions whose rank is to be told by now whom it waits for. */
  overdue(now: number): { gather: Gather; contribution: Contribution }[] {
    return this.select(() => true).flatMap((gather) =>
      [...gather.contributions.values()].flatMap((contribution) =>
        contribution.tellAt <= now ? { gather, contribution } : [],
      ),
    )
  }

  /** Takes a rank's part back out; the others go on waiting. */
  withdraw(gather: Gather, rank: number): void {
    const contribution = gather.contributions.get(rank)
    if (!contribution) return
    this.#settle(contribution)
    gather.contributions.delete(rank)
    if (gather.contributions.size === 0) this.#remove(gather)
  }

  /** Ends a gather; its contributions, ascending by rank. */
  close(gather: Gather): Contribution[] {
    const parts = gather.ranks.flatMap((rank) => gather.contributions.get(rank) ?? [])
    for (const part of parts) this.#settle(part)
    this.#remove(gather)
    return parts
  }

  /** Open gathers that `test` holds for. */
  select(test: (gather: Gather) => boolean): Gather[] {
    return [...this.#slots.values()].flatMap((open) => open.filter(test))
  }

  #settle({ member, id, stop }: Contribution): void {
    stop()
    const waits = this.#waits.get(member)
    waits?.delete(id)
    if (waits?.size === 0) this.#waits.delete(member)
  }

  #remove(gather: Gather): void {
    const open = this.#slots.get(gather.slot)
    const index = open?.indexOf(gather) ?? -1
    if (!open || index < 0) return
    open.splice(index, 1)
    if (open.length === 0) this.#slots.delete(gather.slot)
  }
}

function sameRanks(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((rank, i) => rank === b[i])
}

function waitsFor(gather: Gather, other: Gather): boolean {
  return gather.ranks.some((rank) => !gather.contributions.has(rank) && other.contributions.has(rank))
}
