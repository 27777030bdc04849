import { EventEmitter } from 'node:events'
import type { CkptError, Manifest, RankAccess } from '@ckpt/contract'
import type { UpdateReport } from './report.ts'
import { timelineOf, type Timeline } from './timeline.ts'

/** A rank from the last gathered metas. */
export interface Member {
  readonly rank: number
  readonly host: string
  readonly device: string
  /** How others can read its memory, best first: kind and address. Empty if it holds nothing that was gathered. */
  readonly links?: readonly string[]
}

/** A checkpoint that this rank holds. */
export interface HeldCheckpoint {
  readonly name: string
  readonly bytes: number
  readonly tensors: number
}

/** An update that is running on this rank. */
export interface RunningUpdate {
  readonly checkpoint: string
  readonly version: string
  readonly strategy: string
  /** Milliseconds since 1970. */
  readonly startedMs: number
  readonly loadedBytes: number
  readonly totalBytes: number
  /** [milliseconds since its start, bytes loaded by then], at most 500 entries. */
  readonly loads: readonly (readonly [milliseconds: number, bytes: number])[]
}

/** A finished update. */
export interface PastUpdate {
  readonly checkpoint: string
  readonly version: string
  readonly strategy: string
  readonly startedMs: number
  readonly totalMs: number
  readonly bytes?: number
  /** Set for successful updates. */
  readonly steps?: UpdateReport['steps']
  readonly timeline?: Timeline
  /** Set for failed updates. */
  readonly error?: { readonly code: string; readonly message: string }
}

const MAX_LOADS = 500
const MAX_HISTORY = 50
/** Timelines are kept only for the newest updates, joined to this number of spans. */
const MAX_TIMELINES = 5
const MAX_SPANS = 1500

/** Activity of a rank, for observers. Emits `change` after every change. */
export class Activity extends EventEmitter<{ change: [] }> {
  readonly #checkpoints = new Map<string, HeldCheckpoint>()
  readonly #history: PastUpdate[] = []
  #members: readonly Member[] = []
  /** Start of the running update (`performance.now()`, because the wall clock may jump). */
  #begunAt = 0
  #running: (Omit<RunningUpdate, 'loads'> & { loads: [number, number][] }) | undefined

  constructor() {
    super()
    // One listener for each open page; the API limits their number.
    this.setMaxListeners(0)
  }

  /** Sorted by name. */
  get checkpoints(): HeldCheckpoint[] {
    return [...this.#checkpoints.values()].sort((a, b) => a.name.localeCompare(b.name))
  }

  get members(): readonly Member[] {
    return this.#members
  }

  get running(): RunningUpdate | undefined {
    return this.#running
  }

  /** Newest first. */
  get history(): readonly PastUpdate[] {
    return this.#history
  }

  /** Adds updates of an earlier process, newest first, behind those of this one. */
  restore(earlier: readonly PastUpdate[]): void {
    this.#history.push(...earlier.slice(0, MAX_HISTORY - this.#history.length))
    for (let at = MAX_TIMELINES; at < this.#history.length; at++) this.#history[at] = withoutTimeline(this.#history[at]!)
    this.emit('change')
  }

  registered(checkpoint: HeldCheckpoint): void {
    this.#checkpoints.set(checkpoint.name, checkpoint)
    this.emit('change')
  }

  unregistered(name: string): void {
    if (this.#checkpoints.delete(name)) this.emit('change')
  }

  gathered({ ranks }: Manifest, access: readonly RankAccess[] = []): void {
    this.#members = ranks.map(({ rank, host, deviceUuid }) => {
      const points = access.find((one) => one.rank === rank)?.points ?? []
      const links = points.map(({ endpoint: { kind, addresses, nics } }) =>
        [kind, addresses[0], ...nics].filter(Boolean).join(' '),
      )
      return { rank, host, device: deviceUuid, links }
    })
    this.emit('change')
  }

  began(checkpoint: string, version: string, strategy: string): void {
    // eslint-disable-next-line no-restricted-properties -- for people to read
    const startedMs = Date.now()
    this.#begunAt = performance.now()
    this.#running = { checkpoint, version, strategy, startedMs, loadedBytes: 0, totalBytes: 0, loads: [] }
    this.emit('change')
  }

  progressed(loadedBytes: number, totalBytes: number): void {
    const running = this.#running
    if (running === undefined) return
    const { loads } = running
    loads.push([performance.now() - this.#begunAt, loadedBytes])
    // Drops every other entry and keeps the last one: the curve keeps its shape.
    const kept = loads.length > MAX_LOADS ? loads.filter((_, index) => index % 2 === (loads.length - 1) % 2) : loads
    this.#running = { ...running, loadedBytes, totalBytes, loads: kept }
    this.emit('change')
  }

  ended(report: UpdateReport): void {
    const { checkpoint, version, strategy, totalMs, bytes, steps, startedUs } = report
    const timeline = timelineOf(report, { maxSpans: MAX_SPANS })
    this.#over({ checkpoint, version, strategy, startedMs: startedUs / 1000, totalMs, bytes, steps, timeline })
  }

  failed({ code, message }: CkptError): void {
    if (this.#running === undefined) return
    const { checkpoint, version, strategy, startedMs } = this.#running
    this.#over({
      checkpoint,
      version,
      strategy,
      startedMs,
      totalMs: performance.now() - this.#begunAt,
      error: { code, message },
    })
  }

  #over(update: PastUpdate): void {
    this.#running = undefined
    this.#history.unshift(update)
    this.#history.length = Math.min(this.#history.length, MAX_HISTORY)
    const old = this.#history[MAX_TIMELINES]
    if (old !== undefined) this.#history[MAX_TIMELINES] = withoutTimeline(old)
    this.emit('change')
  }
}

function withoutTimeline({ timeline: _, ...rest }: PastUpdate): PastUpdate {
  return rest
}
