import { CkptError, type KeptByRank, type UpdateStrategy } from '@ckpt/contract'
import { beginDirect } from './begin.ts'
import type { DirectAnnouncement } from './announcement.ts'
import { DirectState } from './direct-state.ts'

export interface DirectOptions {
  /**
   * Fail with `UNSUPPORTED` and the reason instead of staging an update, but for the one that is recorded (default false: it is
   * staged, and the report says why).
   */
  readonly required?: boolean
  /**
   * How often a few tensors of one layer, chosen at random, are loaded by the engine's own loader over what was written: in the second
   * direct (or replayed) update after a recording and then in each `checkEvery`-th (default 100; 0: never). Where that changes anything the
   * update fails with `DIGEST_MISMATCH`, and the engine is recorded again.
   */
  readonly checkEvery?: number
}

/**
 * Shard-exact updates (docs/direct.md). The first update of an engine is staged and recorded; from then on each rank writes only
 * the bytes that its engine worker needs, from host memory straight into the parameters. Tensors that the engine computes with go on
 * through the ring.
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
  }
}

/** What this rank says as the update begins. */
function announce(kept: KeptByRank): DirectAnnouncement {
  const { ready, count } = kept.of(DirectState)
  return { prepared: ready, directs: count }
}

/** Direct where the engine's routes are known and can be used, else staged and recorded; the report says why. */
export function auto(): UpdateStrategy {
  return direct({ required: false })
}
