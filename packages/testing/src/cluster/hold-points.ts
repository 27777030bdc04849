import type { EngineAdapter, UpdateStrategy } from '@ckpt/contract'

/**
 * Points at which an update on a rank can be held, in this order: `begin` (the engine was asked if it is ready; nothing
 * announced), `plan` (the plan is made, the worker's socket bound, no ring yet), `h2d` (ring and worker are attached, no byte
 * moved), `broadcast` (a bucket is complete in the ring, its worker does not know yet; in a direct update: all bytes are
 * written, no worker knows yet).
 */
export type RankPoint = 'begin' | 'plan' | 'h2d' | 'broadcast'

/** Stops an update at a point until it is released; `reached` is called when it stops there. */
export class Hold {
  readonly #point: RankPoint
  readonly #bucket: number
  readonly #reached: () => void
  readonly #gone: Promise<void>
  #go!: () => void
  #standing = false

  /** `bucket` counts the buckets of this rank as they are completed, for the point `broadcast`. */
  constructor(point: RankPoint, bucket: number, reached: () => void) {
    this.#point = point
    this.#bucket = bucket
    this.#reached = reached
    this.#gone = new Promise((resolve) => (this.#go = resolve))
  }

  /** Waits at the hold's point, returns at once at others. */
  async at(point: RankPoint, bucket = 0): Promise<void> {
    if (point !== this.#point || (point === 'broadcast' && bucket < this.#bucket)) return
    if (!this.#standing) this.#reached()
    this.#standing = true
    await this.#gone
  }

  go(): void {
    this.#go()
  }
}

/** Returns `engine`, held at `begin` and `plan`. */
export function heldEngine(engine: EngineAdapter, hold: Hold): EngineAdapter {
  return override(engine, {
    async ready(options) {
      await engine.ready(options)
      await hold.at('begin')
    },
    async start(options) {
      await hold.at('plan')
      return engine.start(options)
    },
  })
}

/** Returns `strategy`, held at `h2d` and `broadcast`. */
export function heldStrategy(strategy: UpdateStrategy, hold: Hold): UpdateStrategy {
  return override(strategy, {
    async begin(context) {
      const { loading } = context
      let bucket = 0
      const held = override(loading, {
        async load(...args) {
          await hold.at('broadcast', bucket++)
          return loading.load(...args)
        },
      })
      const attempt = await strategy.begin({ ...context, loading: held })
      return override(attempt, {
        async execute() {
          await hold.at('h2d')
          await attempt.execute()
          await hold.at('broadcast', Infinity)
        },
      })
    },
  })
}

/** Returns `target` with some methods replaced; everything else, including private state, is unchanged. */
function override<T extends object>(target: T, methods: Partial<T>): T {
  return new Proxy(target, {
    get(object, key) {
      if (key in methods) return Reflect.get(methods, key) as unknown
      const value: unknown = Reflect.get(object, key)
      return typeof value === 'function' ? (value.bind(object) as unknown) : value
    },
  })
}
