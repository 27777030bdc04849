import { CkptError, type PipelineRun, type PullStats } from '@ckpt/contract'
import type { Landing } from './landing.ts'
import type { Sources } from './sources.ts'
import { isReceiver } from './receiver-number.ts'

/** Concurrent reads: enough for several sources, few enough that each of them makes progress. */
const READS = 6

/** Reads a receiver's own buckets in plan order, as places for them become free. */
export class Puller {
  readonly #own: readonly number[]
  readonly #landing: Landing
  readonly #sources: Sources
  readonly #spans: number[] = []
  #run: PipelineRun | undefined
  /** Numbers of own buckets that have a place, were requested, and were delivered. */
  #placed = 0
  #asked = 0
  #reading = 0
  #failed = false
  #busyMs = 0
  #busySince = 0
  #idle: (() => void) | undefined

  constructor(own: readonly number[], landing: Landing, sources: Sources) {
    this.#own = own
    this.#landing = landing
    this.#sources = sources
    if (landing.into === 'sources') this.#placed = Math.min(landing.slots, own.length)
  }

  begin(run: PipelineRun): void {
    this.#run = run
    this.#pump()
  }

  /** Reports that the place of the next own bucket is free. */
  writable(): void {
    this.#placed++
    this.#pump()
  }

  /** Reports that an own bucket has left its place. */
  delivered(): void {
    if (this.#landing.into === 'sources' && this.#placed < this.#own.length) this.writable()
  }

  /** Requests nothing more; resolves when no read is in flight any more. */
  stop(): Promise<void> {
    this.#failed = true
    if (this.#reading === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#idle = resolve
    })
  }

  stats(startedAt: number): PullStats {
    const { bytes, wires } = this.#sources
    const read = [...bytes].map(([rank, size]) => ({ rank, bytes: size, ...wires.get(rank)! })).sort((a, b) => a.rank - b.rank)
    const sources = read.filter(({ rank }) => !isReceiver(rank))
    const receivers = read.filter(({ rank }) => isReceiver(rank)).reverse()
    return {
      bytes: read.reduce((sum, source) => sum + source.bytes, 0),
      busyMs: this.#busyMs,
      sources,
      ...(receivers.length > 0 && { receivers: receivers.map(({ rank, bytes }) => ({ rank: -1 - rank, bytes })) }),
      lost: [...this.#sources.lost]
        .filter(([rank]) => !isReceiver(rank))
        .map(([rank, { code, message }]) => ({ rank, code, message })),
      spans: Float64Array.from(this.#spans, (value, index) => (index % 3 === 0 ? value : value - startedAt)),
    }
  }

  #pump(): void {
    const run = this.#run
    if (run === undefined) return
    while (!this.#failed && this.#reading < READS && this.#asked < this.#placed) {
      const turn = this.#asked++
      void this.#pull(run, this.#own[turn]!, turn)
    }
  }

  async #pull(run: PipelineRun, bucket: number, turn: number): Promise<void> {
    const from = performance.now()
    if (this.#reading++ === 0) this.#busySince = from
    try {
      await this.#sources.read(bucket, this.#landing.placeOf(bucket, turn))
      this.#spans.push(bucket, from, performance.now())
      run.arrived(bucket)
    } catch (error) {
      this.#failed = true
      run.abort(CkptError.from(error, 'UPDATE_FAILED', `pulling bucket ${bucket}`))
    } finally {
      if (--this.#reading === 0) {
        this.#busyMs += performance.now() - this.#busySince
        this.#idle?.()
      }
    }
    this.#pump()
  }
}
