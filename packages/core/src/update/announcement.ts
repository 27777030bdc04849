import { CkptError, type Epoch, type Rendezvous, type WorkerEndpoint, type WorkerState } from '@ckpt/contract'
import type { Whereabouts } from '../near/nearness.ts'

/** Data that the ranks exchange at the start of an update. */
export interface Announcement {
  /** Terms in which all ranks must agree. */
  readonly terms: Readonly<Record<string, string | number | boolean | null>>
  /** State of the rank's worker; null if the engine does not report it. */
  readonly workerState: WorkerState | null
  /** Announcement of the strategy. */
  readonly strategy: unknown
  /** Identifies the kept ring and collective: if the ranks differ, all of them start again. */
  readonly generation: string
  /** The run's token for workers; that of rank 0 applies. */
  readonly token: string
  readonly ringLimit: number
  readonly endpoint: WorkerEndpoint
  readonly near: Whereabouts
}

/**
 * Exchanges the announcements of all ranks. @throws CkptError `METAS_STALE` or `INVALID_ARGUMENT` naming the ranks that
 * disagree and the field.
 */
export async function announce(
  rendezvous: Rendezvous,
  epoch: Epoch,
  own: Announcement,
  options: { timeoutMs: number; signal: AbortSignal },
): Promise<Announcement[]> {
  const all = await rendezvous.allGather('update/begin', own, { epoch: epoch.id, ...options })
  const { checkpoint } = own.terms
  // A field may be missing if a rank calls with a different strategy.
  const fields = new Set(all.flatMap(({ terms }) => Object.keys(terms)))
  for (const field of fields) {
    const differing = all.filter(({ terms }) => terms[field] !== own.terms[field])
    const ranks = differing.map((one) => one.endpoint.rank)
    if (ranks.length === 0) continue
    const stale = field === 'manifestDigest'
    const what = stale
      ? `have different metas of ${checkpoint}: call gatherMetas on every rank`
      : `called update with a different ${field} (${differing[0]!.terms[field]}; rank ${own.endpoint.rank}: ${own.terms[field]})`
    throw new CkptError(stale ? 'METAS_STALE' : 'INVALID_ARGUMENT', `ranks ${ranks.join(', ')} ${what}`, {
      fields: { ranks, field, checkpoint: String(checkpoint) },
    })
  }
  return all
}
