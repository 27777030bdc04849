import { CkptError, type Epoch, type Rendezvous, type WorkerEndpoint, type WorkerState } from '@ckpt/contract'
import type { DirectCount } from '../direct/spot-check.ts'
import type { Whereabouts } from '../near/nearness.ts'

/** What the ranks tell each other at the start of an update; all but the last seven must agree. */
export interface Announcement {
  readonly checkpoint: string
  readonly manifestDigest: string
  readonly strategy: string
  readonly version: string
  readonly verify: string
  readonly bucketBytes: number | null
  readonly maxBucketBytes: number
  readonly chunkBytes: number
  /** What is done after a failure. */
  readonly recovery: string
  /** How often direct updates are checked; 0 for other strategies. */
  readonly checkEvery: number
  /** What the rank's worker serves; null where the engine does not tell. */
  readonly workerState: WorkerState | null
  /** Direct update that the rank has ready to run; null for none. */
  readonly prepared: string | null
  /** Direct updates that it has seen. */
  readonly directs: DirectCount
  /** Kept ring and collective: where the ranks differ, all of them start anew. */
  readonly generation: string
  /** The run's token for workers; rank 0's counts. */
  readonly token: string
  readonly ringLimit: number
  readonly endpoint: WorkerEndpoint
  readonly near: Whereabouts
}

const MUST_AGREE = [
  'checkpoint',
  'manifestDigest',
  'strategy',
  'version',
  'verify',
  'bucketBytes',
  'maxBucketBytes',
  'chunkBytes',
  'recovery',
  'checkEvery',
] as const

/** Everybody's announcement. @throws CkptError `METAS_STALE` or `INVALID_ARGUMENT` naming the ranks that disagree and the field. */
export async function announce(
  rendezvous: Rendezvous,
  epoch: Epoch,
  own: Announcement,
  options: { timeoutMs: number; signal: AbortSignal },
): Promise<Announcement[]> {
  const all = await rendezvous.allGather('update/begin', own, { epoch: epoch.id, ...options })
  for (const field of MUST_AGREE) {
    const ranks = all.filter((one) => one[field] !== own[field]).map((one) => one.endpoint.rank)
    if (ranks.length === 0) continue
    const stale = field === 'manifestDigest'
    const what = stale
      ? `have other metas of ${own.checkpoint}: call gatherMetas on every rank`
      : `called update with another ${field}`
    throw new CkptError(stale ? 'METAS_STALE' : 'INVALID_ARGUMENT', `ranks ${ranks.join(', ')} ${what}`, {
      fields: { ranks, field, checkpoint: own.checkpoint },
    })
  }
  return all
}
