import type { GatherKind, GatherMessage } from '../wire/messages.ts'
import type { Member } from './members.ts'

/** One rank's contribution to a gather. */
export interface Contribution {
  readonly member: Member
  /** The rank's own id of its wait. */
  readonly id: number
  readonly timeoutMs: number
  readonly digest: string | undefined
  /** Undefined until a blob's payload arrives. */
  payload: Uint8Array | undefined
  /** Cancels the deadline. */
  stop: () => void
  /** Time of the next `waiting` message to this rank (`performance.now()`); never if it does not support them. */
  tellAt: number
}

/** A running gather. */
export interface Gather {
  readonly slot: string
  readonly kind: GatherKind
  readonly key: string
  readonly epoch: number | null
  readonly ranks: readonly number[]
  readonly contributions: Map<number, Contribution>
}

/**
 * Open gathers. Contributions are matched by kind, key, epoch and ranks. A rank that already contributed to one opens the next,
 * so a key may be reused before all ranks have read the last result, and gathers of a key complete in the order in which ranks
 * make them.
 */
export class Gathers {
  readonly #slots = new Map<string, Gather[]>()
  /** Gathers in which members wait, by the ids they assigned. */
  readonly #waits = new Map<Member, Map<number, Gather>>()

  /** Keys under which a rank waits. */
  get size(): number {
    return this.#slots.size
  }

  /** Returns the gather in which a member waits under this id. */
  waitOf(member: Member, id: number): Gather | undefined {
    return this.#waits.get(member)?.get(id)
  }

  /** Returns the number of gathers in which a member waits, and the bytes of its contributions. */
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

  /** Returns the gather that this rank's message belongs to; opens it if there is none. */
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
   * Returns an open gather of the same key that can never complete together with `gather`, because a rank waits in each for one
   * that waits in the other.
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

  /** Contributions whose rank should now be told which ranks it waits for. */
  overdue(now: number): { gather: Gather; contribution: Contribution }[] {
    return this.select(() => true).flatMap((gather) =>
      [...gather.contributions.values()].flatMap((contribution) =>
        contribution.tellAt <= now ? { gather, contribution } : [],
      ),
    )
  }

  /** Removes a rank's contribution; the others keep waiting. */
  withdraw(gather: Gather, rank: number): void {
    const contribution = gather.contributions.get(rank)
    if (!contribution) return
    this.#settle(contribution)
    gather.contributions.delete(rank)
    if (gather.contributions.size === 0) this.#remove(gather)
  }

  /** Ends a gather; returns its contributions, ascending by rank. */
  close(gather: Gather): Contribution[] {
    const parts = gather.ranks.flatMap((rank) => gather.contributions.get(rank) ?? [])
    for (const part of parts) this.#settle(part)
    this.#remove(gather)
    return parts
  }

  /** Open gathers for which `test` is true. */
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
