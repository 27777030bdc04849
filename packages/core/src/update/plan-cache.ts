import type { CopyColumns, Manifest, TransferPlan } from '@ckpt/contract'
import { copiesFor, planBroadcast, type PlanOptions } from '@ckpt/planner'

export interface PlannedUpdate {
  readonly plan: TransferPlan
  readonly copies: CopyColumns
}

/** The plan of the last update, made anew only when the manifest or the plan's options change. */
export class PlanCache {
  #last: { readonly key: string; readonly planned: PlannedUpdate } | undefined

  get(manifest: Manifest, rank: number, options: PlanOptions): PlannedUpdate {
    const key = JSON.stringify([manifest.digest, options])
    if (this.#last?.key !== key) {
      const plan = planBroadcast(manifest, options)
      this.#last = { key, planned: { plan, copies: copiesFor(plan, manifest, rank) } }
    }
    return this.#last.planned
  }
}
