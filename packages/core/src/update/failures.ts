import { CkptError, type Epoch, type Rendezvous } from '@ckpt/contract'
import { aborted } from '@ckpt/utils'
import type { Logger } from 'pino'
import type { EngineStates } from '../engine-states.ts'
import type { KeptParts } from './kept-parts.ts'
import type { UpdatePhase } from './progress.ts'
import type { Attempt } from './recovery.ts'
import type { UpdateResources } from './resources.ts'

/**
 * Devices pass an abort on faster than the rendezvous. A rank waits this long, plus the time for which a lost rank or
 * coordinator may go unnoticed, for the original error before it reports its own.
 */
const ORIGIN_GRACE_MS = 500
/** Time in milliseconds for ranks to report if their workers received parts of a failed update. */
const GIVEN_MS = 2000
/** What a rank does when an update fails: it tells the others, releases what is half done, and finds out who is dirty. */
export class UpdateFailures {
  readonly #rendezvous: Rendezvous
  readonly #log: Logger
  readonly #resources: UpdateResources
  readonly #kept: KeptParts
  readonly #engines: EngineStates

  constructor(parts: {
    readonly rendezvous: Rendezvous
    readonly log: Logger
    readonly resources: UpdateResources
    readonly kept: KeptParts
    readonly engines: EngineStates
  }) {
    this.#rendezvous = parts.rendezvous
    this.#log = parts.log
    this.#resources = parts.resources
    this.#kept = parts.kept
    this.#engines = parts.engines
  }

  /** Releases what a failed update may have left half done. @returns the error to throw, with the ranks of dirty workers */
  async release(
    error: CkptError,
    epoch: Epoch,
    engine: string,
    ranks: readonly number[],
    { progress }: Attempt,
    outer: AbortSignal,
  ): Promise<CkptError> {
    await this.#resources.release()
    await this.#kept.release()
    // The rank where the failure began throws its own error, other ranks the abort that carries it.
    const abort: unknown = epoch.signal.reason
    const reported = CkptError.is(abort) && abort.fields.rank !== this.#rendezvous.rank ? abort : error
    const given = await this.#given(ranks, progress.touched, reported, outer)
    const dirty = this.#engines.failed(engine, ranks, progress, reported, given)
    return dirty.length > 0 ? reported.with({ dirty }) : reported
  }

  /** Exchanges which ranks' workers received parts of the failed update. */
  async #given(ranks: readonly number[], own: boolean, why: CkptError, signal: AbortSignal): Promise<Map<number, boolean>> {
    const rendezvous = this.#rendezvous
    const known = new Map(ranks.includes(rendezvous.rank) ? [[rendezvous.rank, own]] : [])
    // Waiting for a lost rank would be in vain.
    if (known.size === 0 || ranks.length === 1 || signal.aborted || rendezvous.lost !== undefined || isLoss(why)) return known
    try {
      const all = await rendezvous.allGather('update/given', own, { ranks, timeoutMs: GIVEN_MS, signal })
      return new Map(ranks.map((rank, i) => [rank, all[i]!]))
    } catch {
      return known // a rank is lost, or was cancelled: any worker may have received something
    }
  }

  /** Reports the failure to every rank; resolves to the error that this rank throws. */
  async report(epoch: Epoch, checkpoint: string, thrown: unknown, phase: UpdatePhase, outer: AbortSignal): Promise<CkptError> {
    const error = CkptError.from(thrown, 'UPDATE_FAILED').with({
      rank: this.#rendezvous.rank,
      checkpoint,
      epoch: epoch.id,
      phase,
    })
    // An abort passed on by a device, or by a library that lost its peer, says little; the rendezvous soon knows the reason and
    // the lost rank.
    const peers = error.code === 'ABORTED' ? !outer.aborted : error.code === 'NATIVE_FAILURE' && error.fields.peer !== undefined
    if (peers) await aborted(epoch.signal, this.#rendezvous.lossMs + ORIGIN_GRACE_MS)
    // Only the rank where the failure began logs it.
    if (!epoch.signal.aborted) this.#log.error({ err: error, checkpoint, epoch: epoch.id }, 'update failed')
    this.#rendezvous.abortEpoch(epoch, error)
    return error
  }
}

/** Returns true if a rank, or the coordinator, was lost, according to the error or its causes. */
function isLoss(error: unknown): boolean {
  return CkptError.is(error) && (error.code === 'RANK_LOST' || error.code === 'RANK_MISSING' || isLoss(error.cause))
}
