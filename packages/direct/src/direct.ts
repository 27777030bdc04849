import { CkptError, type KeptByRank, type UpdateStrategy } from '@ckpt/contract'
import { beginDirect, prepareDirect } from './begin.ts'
import type { DirectAnnouncement } from './announcement.ts'
import { DirectState } from './direct-state.ts'

export interface DirectOptions {
  /**
   * Fail with `UNSUPPORTED` and the reason instead of staging an update, except for the one that is recorded (default false: it
   * is staged, and the report gives the reason).
   */
  readonly required?: boolean
  /**
   * Interval at which the engine's own loader loads a few tensors of one random layer over the written parameters: in the
   * second direct (or replayed) update after a recording and then in every `checkEvery`-th (default 100; 0: never). If that
   * changes anything, the update fails with `DIGEST_MISMATCH`, and the engine is recorded again.
   */
  readonly checkEvery?: number
}

/**
 * Shard-exact updates (docs/direct.md). The first update of an engine is staged and recorded. From then on each rank writes
 * only the bytes that its engine worker needs, from host memory directly into the parameters. Tensors that the engine computes
 * with continue to use the ring.
 */
export function direct({ required = false, checkEvery = 100 }: DirectOptions = {}): UpdateStrategy {
  if (!Number.isSafeInteger(checkEvery) || checkEvery < 0) {
    const text = `checkEvery: ${checkEvery} is not a number of updates: give a whole number, or 0 for no checks`
    throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'checkEvery' } })
  }
  return {
    name: 'direct',
    options: { checkEvery },
    mayNeedNoRing: true,
    announce,
    begin: (context) => beginDirect(context, { required, checkEvery }),
    prepare: (context) => prepareDirect(context, checkEvery),
    isPrepared: (kept, manifest, segments) => kept.of(DirectState).isPrepared(manifest, segments),
  }
}

/** Returns this rank's announcement for the beginning of the update. */
function announce(kept: KeptByRank): DirectAnnouncement {
  const { ready, count } = kept.of(DirectState)
  return { prepared: ready, directs: count }
}

/**
 * The default strategy: direct where the engine can be recorded and the ranks can share memory, replayed where they cannot share
 * it, otherwise staged. The report's `how` says which, and why.
 */
export function auto(options: Omit<DirectOptions, 'required'> = {}): UpdateStrategy {
  return { ...direct(options), name: 'auto' }
}
