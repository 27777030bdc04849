import { CkptError, type WorkerState } from '@ckpt/contract'
import type { Announcement } from './update/announcement.ts'
import { mayHaveTouched, type UpdateProgress } from './update/progress.ts'
import type { Applied } from './update/recovery.ts'

/** State of one engine worker, as far as this rank knows it. */
export interface WorkerStatus extends WorkerState {
  /** Name of the engine's adapter. */
  readonly engine: string
  readonly rank: number
  /** Reason why it is dirty, if this rank knows it: the code of an error, or that its neighbours serve other versions. */
  readonly reason?: string
}

/** State of the engines that this rank updated: what their workers reported when updates began, and how the updates ended. */
export class EngineStates {
  readonly #engines = new Map<string, Map<number, WorkerStatus>>()
  readonly #applied = new Map<string, Applied>()

  /** All known workers, by engine and rank. */
  list(): WorkerStatus[] {
    return [...this.#engines.values()].flatMap((workers) => [...workers.values()].sort((a, b) => a.rank - b.rank))
  }

  /**
   * Records the states that the workers of an update reported; they may be new workers, so earlier knowledge is dropped.
   * Workers that serve different versions count as dirty, whatever each reports.
   */
  announced(engine: string, announcements: readonly Pick<Announcement, 'endpoint' | 'workerState'>[]): void {
    const states = announcements.flatMap(({ endpoint, workerState }) =>
      workerState ? { rank: endpoint.rank, ...workerState } : [],
    )
    const mixed = new Set(states.map(({ version }) => version)).size > 1
    for (const state of states) {
      this.#set({ engine, ...state, dirty: state.dirty || mixed, ...(mixed && { reason: 'neighbours serve other versions' }) })
    }
  }

  /** Records that all workers of the update serve the applied version. */
  committed(engine: string, ranks: readonly number[], applied: Applied): void {
    this.#applied.set(engine, applied)
    for (const rank of ranks) this.#set({ engine, rank, version: applied.version, dirty: false })
  }

  /**
   * Records a failed update: workers that received, or may have received, parts of it are dirty until an update succeeds,
   * whatever they report. `given` says which received some, as far as their ranks reported it. Returns the ranks of dirty
   * workers.
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

  /** Returns the last completely applied version, if its checkpoint's metas still have the same digest. */
  previous(engine: string, digestOf: (checkpoint: string) => string | undefined): Applied | undefined {
    const applied = this.#applied.get(engine)
    return applied && digestOf(applied.checkpoint) === applied.digest ? applied : undefined
  }

  #set(status: WorkerStatus): void {
    const workers = this.#engines.get(status.engine) ?? new Map<number, WorkerStatus>()
    this.#engines.set(status.engine, workers.set(status.rank, status))
  }
}
