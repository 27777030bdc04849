import { CkptError, type Rendezvous } from '@ckpt/contract'
import type { UpdateReport } from '../report.ts'
import { UpdateProgress } from './progress.ts'

/** Last version that was completely applied to the engine's workers. */
export interface Applied {
  readonly checkpoint: string
  readonly version: string
  /** Digest of the applied manifest. */
  readonly digest: string
}

export interface Attempt {
  readonly checkpoint: string
  readonly version: string
  readonly progress: UpdateProgress
  /** State left by an attempt at the same checkpoint, so that only missing tensors are sent. */
  readonly failed?: UpdateProgress
  /** Set if this attempt restores the previous version after the requested update has failed. */
  readonly restoring?: true
}

export interface Recovery {
  readonly rendezvous: Rendezvous
  /** Participating ranks, if not all. */
  readonly ranks?: readonly number[]
  /** Further attempts after the first. */
  readonly retry: number
  readonly rollback: boolean
  readonly timeoutMs: number
  readonly signal: AbortSignal
  readonly attempt: (attempt: Attempt) => Promise<UpdateReport>
  /** Version that could be restored: the last complete update, if its checkpoint is still registered unchanged. */
  readonly previous: () => Applied | undefined
  readonly onRetry: (error: CkptError, attempt: number) => void
}

/** Longest time, in milliseconds, for the ranks to agree on what to do after a failure. */
const AGREE_MS = 10_000

interface Proposal {
  readonly retry: boolean
  readonly touched: boolean
  /** Version that this rank would restore; empty for none. */
  readonly restore: string
}

/**
 * Attempts an update, repeats it if that may help, and restores the previous version if all attempts fail. The ranks agree on
 * both; if a rank has been lost, or was cancelled, the failure stands.
 *
 * @throws CkptError the last attempt's, with `attempts`, and with `rolledBack` (the version restored) or `rollbackError`.
 */
export async function updateWithRecovery(
  target: { readonly checkpoint: string; readonly version: string },
  recovery: Recovery,
): Promise<UpdateReport> {
  const { retry, rollback, attempt } = recovery
  let failed: UpdateProgress | undefined
  for (let number = 1; ; number++) {
    const progress = new UpdateProgress(retry > 0)
    try {
      const report = await attempt({ ...target, progress, ...(failed && { failed }) })
      return number === 1 ? report : { ...report, attempts: number }
    } catch (thrown) {
      let error = CkptError.from(thrown, 'UPDATE_FAILED')
      if (retry === 0 && !rollback) throw error
      if (number > 1) error = error.with({ attempts: number })
      const previous = rollback ? recovery.previous() : undefined
      const decision = await agree(recovery, {
        retry: number <= retry && worthRetrying(error),
        touched: progress.touched || (failed?.touched ?? false),
        restore: previous ? JSON.stringify([previous.checkpoint, previous.version, previous.digest]) : '',
      })
      if (decision === 'retry') {
        recovery.onRetry(error, number)
        // Tensors loaded by an earlier attempt are still there if the worker's name for its parameters is the same.
        if (failed?.loaded && progress.workerState === failed.workerState)
          for (const name of failed.loaded) progress.loaded?.add(name)
        failed = progress
        continue
      }
      if (decision === 'nothing' || previous === undefined) throw error
      throw await restored(recovery, previous, error)
    }
  }
}

/** Restores the previously applied version; returns the update's error with the result. */
async function restored(
  { attempt }: Recovery,
  { checkpoint, version }: Applied,
  { code, message, cause, fields: { dirty, ...fields } }: CkptError,
): Promise<CkptError> {
  try {
    await attempt({ checkpoint, version, progress: new UpdateProgress(false), restoring: true })
    return new CkptError(code, message, { fields: { ...fields, rolledBack: version }, cause })
  } catch (error) {
    const rollbackError = CkptError.from(error, 'UPDATE_FAILED').message
    return new CkptError(code, message, { fields: { ...fields, dirty, rollbackError }, cause })
  }
}

/** Exchanges the proposals of all ranks. */
async function agree(recovery: Recovery, own: Proposal): Promise<'retry' | 'restore' | 'nothing'> {
  const { rendezvous, signal } = recovery
  if (signal.aborted) return 'nothing'
  try {
    const timeoutMs = Math.min(recovery.timeoutMs, AGREE_MS)
    const all = await rendezvous.allGather('update/recover', own, {
      timeoutMs,
      signal,
      ...(recovery.ranks && { ranks: recovery.ranks }),
    })
    if (all.every((one) => one.retry)) return 'retry'
    const restore = own.restore !== '' && all.every((one) => one.restore === own.restore)
    return restore && all.some((one) => one.touched) ? 'restore' : 'nothing'
  } catch {
    // If a rank is lost, or was cancelled, the failure itself is reported.
    return 'nothing'
  }
}

/** Returns true if the error that began the failure may not recur with the present ranks. */
function worthRetrying(error: CkptError): boolean {
  const origin = error.code === 'ABORTED' && CkptError.is(error.cause) ? error.cause : error
  return origin.retryable && origin.scope !== 'rank'
}
