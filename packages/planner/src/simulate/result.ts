/** Something that carries bytes, or works, and can be the bottleneck. */
export interface LinkUse {
  /** `host link`, `NVLink`, `NIC`, `host memory`, `reload`, `processors`. */
  readonly link: string
  /** Bytes through the busiest one of its kind. */
  readonly bytes: number
  /** Time that the busiest one works, in milliseconds. */
  readonly busyMs: number
}

/** What an update would take. Times in milliseconds, sizes in bytes. */
export interface Simulation {
  readonly system: 'ckpt' | 'checkpoint-engine'
  readonly strategy: 'broadcast' | 'p2p' | 'direct'
  /** Ranks that receive. */
  readonly receivers: number
  readonly totalMs: number
  /** Busiest rank of each stage; they overlap. `controlMs` is what lies before and after the pipeline. */
  readonly stages: {
    readonly controlMs: number
    readonly h2dMs: number
    readonly networkMs: number
    readonly broadcastMs: number
    readonly reloadMs: number
  }
  readonly links: readonly LinkUse[]
  /** Of `links`, the one that works longest. */
  readonly bottleneck: string
  /** How long that one works: no schedule that moves these bytes over these links is faster. */
  readonly boundMs: number
  /** Memory of a GPU beside the engine's parameters. */
  readonly deviceBytes: number
  /** Host memory of a rank: its share of the checkpoint. */
  readonly hostBytes: number
  readonly buckets: number
  readonly bucketBytes: number
  readonly mode: string
}

/** The busiest of `links`, and how long it works. */
export function bottleneck(links: readonly LinkUse[]): Pick<Simulation, 'bottleneck' | 'boundMs' | 'links'> {
  const used = links.filter(({ bytes, busyMs }) => bytes > 0 || busyMs > 0)
  const busiest = used.reduce((most, one) => (one.busyMs > most.busyMs ? one : most), { link: 'none', bytes: 0, busyMs: 0 })
  return { links: used, bottleneck: busiest.link, boundMs: busiest.busyMs }
}
