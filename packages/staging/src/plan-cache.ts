import type { Manifest, PlannedUpdate, PlanOptions, StagedWay } from '@ckpt/contract'

/** Caches the plan of the last update; it is made again only if the manifest, the way or the options differ. */
export class PlanCache {
  #last: { readonly key: string; readonly planned: PlannedUpdate } | undefined

  plan(way: StagedWay, manifest: Manifest, rank: number, options: PlanOptions): PlannedUpdate {
    const key = JSON.stringify([way.name, way.variant, manifest.digest, options])
    if (this.#last?.key !== key) this.#last = { key, planned: way.plan(manifest, rank, options) }
    return this.#last.planned
  }
}
