import { createHash } from 'node:crypto'
import { CkptError, type Host, type Manifest } from '@ckpt/contract'
import { Presence, type Beacon } from '@ckpt/transport'
import { groupsOf } from './groups.ts'

/** Location that a rank announces at the start of an update. */
export interface Whereabouts {
  /** Null for a rank without /dev/shm. */
  readonly beacon: Beacon | null
  /** Ranks whose nearness it already knows; null for none. */
  readonly known: string | null
}

/** A participating rank, with its announcement. */
export interface Located {
  readonly rank: number
  readonly near: Whereabouts
}

/** Gathers small values from all participating ranks, ascending by rank. */
type Gather = <T>(key: string, value: T) => Promise<T[]>

/**
 * Knows which ranks share memory, as they have proved to each other. It asks again only if other ranks take part, or processes
 * are new.
 */
export class Nearness {
  readonly #host: Host
  #presence: Promise<Presence | null> | undefined
  #known: { readonly key: string; readonly groups: ReadonlyMap<number, number> } | undefined

  constructor(host: Host) {
    this.#host = host
  }

  /** Returns the location for the announcement of an update. */
  async whereabouts(): Promise<Whereabouts> {
    // Without /dev/shm, or without space in it, a rank is near no other rank.
    this.#presence ??= Presence.open(this.#host).catch((error: unknown) => {
      if (CkptError.is(error)) return null
      throw error
    })
    const presence = await this.#presence
    return { beacon: presence?.beacon ?? null, known: this.#known?.key ?? null }
  }

  /**
   * Returns the group of each rank. Ranks of one group have proved to each other that they share memory; all ranks compute the
   * same groups.
   */
  async groups(ranks: readonly Located[], own: number, gather: Gather): Promise<ReadonlyMap<number, number>> {
    if (ranks.length === 1) return new Map([[own, 0]])
    const key = createHash('sha256')
      .update(JSON.stringify(ranks.map(({ rank, near }) => [rank, near.beacon])))
      .digest('hex')
      .slice(0, 32)
    if (this.#known?.key === key && ranks.every(({ near }) => near.known === key)) return this.#known.groups
    const presence = (await this.#presence) ?? null
    const proofs = await Promise.all(
      ranks.map(async ({ rank, near: { beacon } }) =>
        presence === null || beacon === null || rank === own ? null : await presence.proveTo(beacon),
      ),
    )
    const all = await gather('near/proofs', proofs)
    const position = ranks.findIndex(({ rank }) => rank === own)
    const proved = ranks.map(({ rank, near: { beacon } }, index) => {
      const answer = all[index]?.[position]
      const shown = presence !== null && beacon !== null && typeof answer === 'string' && presence.proves(answer, beacon)
      return rank !== own && shown
    })
    const groups = groupsOf(
      ranks.map(({ rank }) => rank),
      await gather('near/proved', proved),
    )
    this.#known = { key, groups }
    return groups
  }

  async close(): Promise<void> {
    const presence = await this.#presence
    this.#presence = undefined
    presence?.close()
  }
}

/** Returns a manifest in which ranks have the same host only if they announced it and have proved that they share memory. */
export function provenHosts(manifest: Manifest, groups: ReadonlyMap<number, number>): Manifest {
  const ranks = manifest.ranks.map((one) => ({ ...one, host: `${one.host}/${groups.get(one.rank) ?? `alone ${one.rank}`}` }))
  return { ...manifest, ranks }
}
