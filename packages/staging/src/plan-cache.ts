import type { CopyColumns, Manifest, TransferPlan } from '@ckpt/contract'
import { copiesFor, planBroadcast, planP2p, type PlanOptions } from '@ckpt/planner'

export interface PlannedUpdate {
  readonly plan: TransferPlan
  readonly copies: CopyColumns
}

/** The plan of the last update, made anew only when the manifest or the plan's options change. */
export class PlanCache {
  #last: { readonly key: string; readonly planned: PlannedUpdate } | undefined

  broadcast(manifest: Manifest, rank: number, options: PlanOptions): PlannedUpdate {
    return this.#cached(['broadcast', manifest.digest, options], () => {
      const plan = planBroadcast(manifest, options)
      return { plan, copies: copiesFor(plan, manifest, rank) }
    })
  }

  /** `joining`: the receivers are not ranks of the manifest. What they copy lies with the strategy. */
  p2p(manifest: Manifest, options: PlanOptions & { readonly ranks: readonly number[] }, joining: boolean): PlannedUpdate {
    return this.#cached(['p2p', manifest.digest, options, joining], () => {
      const plan = planP2p(manifest, { ...options, joining })
      return { plan, copies: noCopies(plan.buckets.count) }
    })
  }

  #cached(parts: readonly unknown[], make: () => PlannedUpdate): PlannedUpdate {
    const key = JSON.stringify(parts)
    if (this.#last?.key !== key) this.#last = { key, planned: make() }
    return this.#last.planned
  }
}

function noCopies(buckets: number): CopyColumns {
  const [none, numbers] = [new Uint32Array(0), new Float64Array(0)]
  return {
    count: 0,
    segment: none,
    segmentOffset: numbers,
    bucketOffset: numbers,
    bytes: numbers,
    firstCopy: new Uint32Array(buckets + 1),
  }
}
