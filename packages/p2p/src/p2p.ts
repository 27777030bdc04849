import { CkptError, type StagedWay, type UpdateAttempt, type UpdateContext, type UpdateStrategy } from '@ckpt/contract'
import { planP2p } from '@ckpt/planner'
import { StagedAttempt } from '@ckpt/staging'
import { Keeper } from './keeper.ts'
import { noCopies } from './landing.ts'
import { pullBuckets, type PullOptions } from './pull-buckets.ts'

/** Who receives. */
export interface P2pOptions {
  /** The ranks that receive, and that call `update`: all others go on with what they do. */
  readonly ranks: readonly number[]
  /**
   * Keep what is pulled in host memory, registered under the checkpoint's name (default false): after `gatherMetas` the receivers are sources
   * of it themselves, together of all of it. It takes the checkpoint's size of memory, divided among them.
   */
  readonly keep?: boolean
}

/**
 * The p2p strategy: the given ranks alone are updated. Each bucket is pulled once, by one of them, out of the host memory of a rank
 * that holds it, and shared among the receivers over their collective. Those that are read from take no part: a native thread of theirs
 * serves the bytes, whatever they are doing.
 *
 * @throws CkptError `INVALID_ARGUMENT` when `ranks` is empty.
 */
export function p2p({ ranks, keep = false }: P2pOptions): UpdateStrategy {
  if (ranks.length === 0) {
    throw new CkptError('INVALID_ARGUMENT', 'p2p needs at least one rank that receives', { fields: { field: 'ranks' } })
  }
  return {
    name: 'p2p',
    ranks: [...new Set(ranks)].sort((a, b) => a - b),
    options: { keep },
    begin: (context) => begin(context, keep),
  }
}

async function begin(context: UpdateContext, keep: boolean): Promise<UpdateAttempt> {
  const { reach, device, reserve, joining } = context
  const pull = { reach: await reach(), host: device.host }
  if (!keep) return new StagedAttempt(context, pulledBuckets(joining, pull))
  // What is kept is kept whole: what an attempt before this one brought is pulled again.
  const { failed: _, ...whole } = context
  return new KeepingAttempt(whole, joining, { ...pull, keeper: new Keeper(reserve) })
}

/** `joining`: the receivers are not ranks of the manifest. */
function pulledBuckets(joining: boolean, options: PullOptions): StagedWay {
  return {
    name: 'p2p',
    variant: joining ? 'joining' : 'within',
    plan(manifest, _rank, { ranks = [], ...rest }) {
      const plan = planP2p(manifest, { ...rest, ranks, joining })
      return { plan, copies: noCopies(plan.buckets.count) }
    },
    run: (context) => pullBuckets(context, options),
  }
}

/** What is pulled becomes a checkpoint of this rank, once all workers have committed. */
class KeepingAttempt extends StagedAttempt {
  readonly #keeper: Keeper

  constructor(context: UpdateContext, joining: boolean, options: PullOptions & { readonly keeper: Keeper }) {
    super(context, pulledBuckets(joining, options))
    this.#keeper = options.keeper
  }

  committed(): void {
    this.#keeper.register()
  }

  close(): void {
    this.#keeper.release()
  }
}
