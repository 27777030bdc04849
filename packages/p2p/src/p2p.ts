import { CkptError, type StagedWay, type UpdateAttempt, type UpdateContext, type UpdateStrategy } from '@ckpt/contract'
import { planP2p } from '@ckpt/planner'
import { noCopies, pullBuckets, StagedAttempt } from '@ckpt/staging'
import { Keeper } from './keeper.ts'

/** Options of the p2p strategy. */
export interface P2pOptions {
  /** Ranks that receive, and that call `update`; all others continue their work. */
  readonly ranks: readonly number[]
  /**
   * Keep the pulled bytes in host memory, registered under the checkpoint's name (default false): after `gatherMetas` the
   * receivers together become a source of the whole checkpoint. This needs memory of the checkpoint's size, divided among them.
   */
  readonly keep?: boolean
}

/**
 * The p2p strategy: updates only the given ranks. Each bucket is pulled once, by one of them, out of the host memory of a rank
 * that holds it, and shared among the receivers over their collective. The source ranks do not take part: their native threads
 * serve the bytes, whatever they are doing.
 *
 * @throws CkptError `INVALID_ARGUMENT` if `ranks` is empty.
 */
export function p2p({ ranks, keep = false }: P2pOptions): UpdateStrategy {
  if (ranks.length === 0) {
    throw new CkptError('INVALID_ARGUMENT', 'p2p: ranks is empty, but at least one rank must receive', {
      fields: { field: 'ranks' },
    })
  }
  return {
    name: 'p2p',
    ranks: [...new Set(ranks)].sort((a, b) => a - b),
    options: { keep },
    begin: (context) => begin(context, keep),
  }
}

async function begin(context: UpdateContext, keep: boolean): Promise<UpdateAttempt> {
  const { reserve, joining } = context
  // Endpoints are created before the engine's worker is given anything.
  await context.reach()
  if (!keep) return new StagedAttempt(context, pulledBuckets(joining))
  // Kept bytes must be complete, so everything that a previous attempt transferred is pulled again.
  const { failed: _, ...whole } = context
  return new KeepingAttempt(whole, joining, new Keeper(reserve))
}

/** Moves every bucket from ranks of another run into the rings of all participating ranks. */
export const joiningBuckets: StagedWay = pulledBuckets(true)

/** `joining`: the receivers are not ranks of the manifest. */
function pulledBuckets(joining: boolean, keeper?: Keeper): StagedWay {
  return {
    name: 'p2p',
    variant: joining ? 'joining' : 'within',
    plan(manifest, _rank, { ranks = [], ...rest }) {
      const plan = planP2p(manifest, { ...rest, ranks, joining })
      return { plan, copies: noCopies(plan.buckets.count) }
    },
    run: (context) =>
      pullBuckets(context, {
        holds: false,
        ...(keeper && { keep: (plan, manifest, own) => keeper.place(plan, manifest, own) }),
      }),
  }
}

/** Registers the pulled bytes as a checkpoint of this rank, once all workers have committed. */
class KeepingAttempt extends StagedAttempt {
  readonly #keeper: Keeper

  constructor(context: UpdateContext, joining: boolean, keeper: Keeper) {
    super(context, pulledBuckets(joining, keeper))
    this.#keeper = keeper
  }

  committed(): void {
    this.#keeper.register()
  }

  close(): void {
    this.#keeper.release()
  }
}
