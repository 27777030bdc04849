import { CkptError, type WorkerState } from '@ckpt/contract'
import type { Announcement } from './update/announcement.ts'
import { mayHaveTouched, type UpdateProgress } from './update/progress.ts'
import type { Applied } from './update/recovery.ts'

/** What a rank knows of one engine worker. */
export interface WorkerStatus extends WorkerState {
  /** Name of the engine's adapter. */
  readonly engine: string
  readonly rank: number
  /** Why it is dirty, where this rank knows: the code of an error, or that its neighbours serve other versions. */
  readonly reason?: string
}

/** What this rank knows of the engines that it updated: what their workers said when updates began, and how the updates ended. */
export class EngineStates {
  readonly #engines = new Map<string, Map<number, WorkerStatus>>()
  readonly #applied = new Map<string, Applied>()

  /** All workers known, by engine and rank. */
  list(): WorkerStatus[] {
    return [...this.#engines.values()].flatMap((workers) => [...workers.values()].sort((a, b) => a.rank - b.rank))
  }

  /**
   * The workers of an update have said what they are; they may be new ones, so that what was known before does not count. Workers that
   * serve different versions are half-way between them, whatever each says.
   */
  announced(engine: string, announcements: readonly Pick<Announcement, 'endpoint' | 'workerState'>[]): void {
    const states = announcements.flatMap(({ endpoint, workerState }) =>
      workerState ? { rank: endpoint.rank, ...workerState } : [],
    )
    const mixed = new Set(states.map(({ version }) => version)).size > 1
    for (const state of states) {
      this.#set({ engine, ...state, dirty: state.dirty || mixed, ...(mixed && { reason: 'other versions beside it' }) })
    }
  }

  /** All workers of the update serve what was applied. */
  committed(engine: string, ranks: readonly number[], applied: Applied): void {
    this.#applied.set(engine, applied)
    for (const rank of ranks) this.#set({ engine, rank, version: applied.version, dirty: false })
  }

  /**
   * An update failed: workers that were, or may have been, given parts of it are dirty, whatever they say, until an update ends well. `given`
   * says which were, as far as their ranks told. Gives the ranks of dirty workers.
   */
  failed(
    engine: string,
    ranks: readonly number[],
    progress: UpdateProgress,
    error: CkptError,
    given: ReadonlyMap<number, boolean>,
  ): number[] {
    const origin = CkptError.is(error.cause) ? error.cause : error
    const begun = progress.touched || [progress.phase, error.fields['phase'], origin.fields['phase']].some(mayHaveTouched)
    for (const rank of ranks) {
      if (!(given.get(rank) ?? begun)) continue
      const version = this.#engines.get(engine)?.get(rank)?.version ?? null
      this.#set({ engine, rank, version, dirty: true, reason: origin.code })
    }
    return [...(this.#engines.get(engine)?.values() ?? [])]
      .flatMap(({ rank, dirty }) => (dirty ? rank : []))
      .sort((a, b) => a - b)
  }

  /** What was applied last as a whole, if its checkpoint's metas still have the digest they had then. */
  previous(engine: string, digestOf: (checkpoint: string) => string | undefined): Applied | undefined {
    const applied = this.#applied.get(engine)
    return applied && digestOf(applied.checkpoint) === applied.digest ? applied : undefined
  }

  #set(status: WorkerStatus): void {
    const workers = this.#engines.get(status.engine) ?? new Map<number, WorkerStatus>()
    this.#engines.set(status.engine, workers.set(status.rank, status))
  }
}
