/** A part that carries bytes, or works, and can be the bottleneck. */
export interface LinkUse {
  /** `host link`, `NVLink`, `NIC`, `host memory`, `reload`, `processors`. */
  readonly link: string
  /** Bytes through the busiest one of its kind. */
  readonly bytes: number
  /** Time that the busiest one works, in milliseconds. */
  readonly busyMs: number
}

/** Simulated update. Times in milliseconds, sizes in bytes. */
export interface Simulation {
  readonly system: 'ckpt' | 'checkpoint-engine'
  readonly strategy: 'broadcast' | 'p2p' | 'direct'
  /** Ranks that receive. */
  readonly receivers: number
  readonly totalMs: number
  /** Times of the busiest rank of each stage; they overlap. `controlMs` is the time before and after the pipeline. */
  readonly stages: {
    readonly controlMs: number
    readonly h2dMs: number
    readonly networkMs: number
    readonly broadcastMs: number
    readonly reloadMs: number
  }
  readonly links: readonly LinkUse[]
  /** Busiest of `links`. */
  readonly bottleneck: string
  /** Its busy time: no schedule that moves these bytes over these links is faster. */
  readonly boundMs: number
  /** Memory of a GPU in addition to the engine's parameters. */
  readonly deviceBytes: number
  /** Host memory of a rank: its share of the checkpoint. */
  readonly hostBytes: number
  readonly buckets: number
  readonly bucketBytes: number
  readonly mode: string
}

/** Returns the busiest of `links`, and its busy time. */
export function bottleneck(links: readonly LinkUse[]): Pick<Simulation, 'bottleneck' | 'boundMs' | 'links'> {
  const used = links.filter(({ bytes, busyMs }) => bytes > 0 || busyMs > 0)
  const busiest = used.reduce((most, one) => (one.busyMs > most.busyMs ? one : most), { link: 'none', bytes: 0, busyMs: 0 })
  return { links: used, bottleneck: busiest.link, boundMs: busiest.busyMs }
}
