import type { ContiguousCopies, DirectJob, DirectStats, HostMemory } from '@ckpt/contract'
import type { RemoteReader } from './remote-reader.ts'

/** Reads the bytes of the rounds. */
type RoundReader = Pick<RemoteReader, 'read' | 'close'>

/** Landing memories: one is filled while another is copied from. */
export const LANDINGS = 2

export interface RemoteRound {
  readonly reads: ContiguousCopies
  /** Copies out of the landing memory of its turn. */
  readonly job: DirectJob
}

/** Copies out of this host's memory while it copies bytes from other hosts, round by round; then it forwards. */
export class RemoteDirectJob implements DirectJob {
  readonly #local: DirectJob
  readonly #rounds: readonly RemoteRound[]
  readonly #forwards: DirectJob
  readonly #landings: readonly HostMemory[]
  readonly #reader: RoundReader

  constructor(parts: {
    readonly local: DirectJob
    readonly rounds: readonly RemoteRound[]
    readonly forwards: DirectJob
    readonly landings: readonly HostMemory[]
    readonly reader: RoundReader
  }) {
    this.#local = parts.local
    this.#rounds = parts.rounds
    this.#forwards = parts.forwards
    this.#landings = parts.landings
    this.#reader = parts.reader
  }

  async run(outer: AbortSignal): Promise<DirectStats> {
    const began = performance.now()
    const failed = new AbortController()
    const signal = AbortSignal.any([outer, failed.signal])
    const done: { readonly at: number; readonly stats: DirectStats }[] = []
    // The first failure ends the others.
    const orStop = async <T>(work: Promise<T>): Promise<T> => {
      try {
        return await work
      } catch (error) {
        failed.abort(error)
        throw error
      }
    }
    const run = async (job: DirectJob): Promise<void> => {
      const at = performance.now() - began
      done.push({ at, stats: await orStop(job.run(signal)) })
    }
    const outcomes = await Promise.allSettled([run(this.#local), orStop(this.#pull(run, signal))])
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw failed.signal.reason ?? outcome.reason
    await run(this.#forwards)
    return together(done)
  }

  async #pull(run: (job: DirectJob) => Promise<void>, signal: AbortSignal): Promise<void> {
    const copies: Promise<void>[] = []
    try {
      for (const [turn, { reads, job }] of this.#rounds.entries()) {
        await copies[turn - LANDINGS]
        await this.#reader.read(reads, this.#landings[turn % LANDINGS]!, signal)
        const copy = run(job)
        // Checked two rounds later, or at the end: a copy may fail while the next round is being read.
        copy.catch(() => undefined)
        copies.push(copy)
      }
      await Promise.all(copies)
    } finally {
      await Promise.allSettled(copies)
    }
  }

  async close(): Promise<void> {
    await this.#reader.close()
    await this.#local.close()
    for (const { job } of this.#rounds) await job.close()
    await this.#forwards.close()
    for (const landing of this.#landings) landing.close()
  }
}

function together(done: readonly { readonly at: number; readonly stats: DirectStats }[]): DirectStats {
  const spans: number[] = []
  const sum = (field: 'h2dMs' | 'forwardMs' | 'h2dBytes' | 'forwardBytes') =>
    done.reduce((all, { stats }) => all + stats[field], 0)
  for (const { at, stats } of done) {
    for (let i = 0; i < stats.spans.length; i += 4) {
      spans.push(stats.spans[i]!, stats.spans[i + 1]!, stats.spans[i + 2]! + at, stats.spans[i + 3]! + at)
    }
  }
  return {
    h2dMs: sum('h2dMs'),
    forwardMs: sum('forwardMs'),
    h2dBytes: sum('h2dBytes'),
    forwardBytes: sum('forwardBytes'),
    spans: Float64Array.from(spans),
  }
}
