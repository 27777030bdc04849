import { CkptError } from '@ckpt/contract'
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { RankObserver, UpdateReport, WorkerStatus } from '@ckpt/core'

/** From an update within one machine to one of the largest models over slow links, in seconds. */
const BUCKETS = [0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300]

export interface MetricsSources {
  readonly rank: number
  readonly worldSize: () => number
  readonly engines: () => readonly WorkerStatus[]
  /** Reasons why the rank cannot take an update now; empty if it can. */
  readonly reasons: () => readonly string[]
}

/** One rank's metrics for Prometheus. docs/operations.md lists names and meanings. */
export class UpdateMetrics implements RankObserver {
  readonly #registry = new Registry()
  readonly #updates: Counter<'engine' | 'strategy' | 'result'>
  readonly #failures: Counter<'code'>
  readonly #attempts: Counter
  readonly #rollbacks: Counter
  readonly #bytes: Counter<'stage'>
  readonly #stages: Counter<'stage'>
  readonly #duration: Histogram<'engine' | 'strategy'>
  readonly #last: Readonly<Record<'seconds' | 'bytes' | 'step' | 'stage' | 'epoch' | 'limit' | 'ratio', Gauge>>
  readonly #registered: Counter
  #ends: (() => Promise<void>)[] = []

  constructor({ rank, worldSize, engines, reasons }: MetricsSources) {
    this.#registry.setDefaultLabels({ rank: String(rank) })
    const registers = [this.#registry]
    const counter = <T extends string>(name: string, help: string, labelNames: T[] = []) =>
      new Counter<T>({ name, help, labelNames, registers })
    const gauge = (name: string, help: string, labelNames: string[] = []) => new Gauge({ name, help, labelNames, registers })

    this.#updates = counter('ckpt_updates_total', 'Updates by result (ok, failed)', ['engine', 'strategy', 'result'])
    this.#failures = counter('ckpt_failures_total', 'Failed updates and registrations by the code of the first error', ['code'])
    this.#attempts = counter('ckpt_retries_total', 'Attempts at updates after a failed first one')
    this.#rollbacks = counter('ckpt_rollbacks_total', 'Failed updates after which the previous version was restored')
    this.#bytes = counter('ckpt_bytes_total', "Bytes that passed through this rank's stages, with padding", ['stage'])
    this.#stages = counter('ckpt_stage_seconds_total', 'Time of the stages of successful updates', ['stage'])
    this.#registered = counter('ckpt_registered_bytes_total', 'Bytes of checkpoints read into host memory')
    this.#duration = new Histogram({
      name: 'ckpt_update_seconds',
      help: 'Time of successful updates, as reported by update()',
      labelNames: ['engine', 'strategy'],
      buckets: BUCKETS,
      registers,
    })
    this.#last = {
      seconds: gauge('ckpt_last_update_seconds', 'Time of the last successful update'),
      bytes: gauge('ckpt_last_update_bytes', 'Bytes of the last applied checkpoint'),
      step: gauge('ckpt_last_update_step_seconds', 'Steps of the last update, which run one after another', ['step']),
      stage: gauge('ckpt_last_update_stage_seconds', 'Stages of the last update, which overlap', ['stage']),
      epoch: gauge('ckpt_epoch', 'Epoch of the last attempt at an update'),
      limit: gauge('ckpt_update_limit_seconds', 'Minimum time of the last update, if measured'),
      ratio: gauge('ckpt_update_ratio_to_limit', 'Ratio of the time of the last update to its minimum, if measured'),
    }
    readWhenAsked({ worldSize, engines, reasons }, registers)
  }

  get contentType(): string {
    return this.#registry.contentType
  }

  /** Returns all of them in the text format of Prometheus. */
  text(): Promise<string> {
    return this.#registry.metrics()
  }

  registered(bytes: number): void {
    this.#registered.inc(bytes)
  }

  began(epoch: number): void {
    this.#last.epoch.set(epoch)
  }

  retried(): void {
    this.#attempts.inc()
  }

  updated(engine: string, report: UpdateReport): void {
    const { strategy, stages, steps } = report
    const seconds = report.totalMs / 1000
    this.#updates.inc({ engine, strategy, result: 'ok' })
    this.#duration.observe({ engine, strategy }, seconds)
    this.#last.seconds.set(seconds)
    this.#last.bytes.set(report.bytes)
    this.#bytes.inc({ stage: 'h2d' }, report.h2dBytes)
    this.#bytes.inc({ stage: 'broadcast' }, report.broadcastBytes)
    this.#bytes.inc({ stage: 'reload' }, report.bytes - (report.kept?.bytes ?? 0))
    for (const [name, milliseconds] of Object.entries(stages) as [string, number][]) {
      const stage = name.replace(/Ms$/, '')
      this.#stages.inc({ stage }, milliseconds / 1000)
      this.#last.stage.set({ stage }, milliseconds / 1000)
    }
    for (const [name, milliseconds] of Object.entries(steps) as [string, number][]) {
      this.#last.step.set({ step: name.replace(/Ms$/, '') }, milliseconds / 1000)
    }
    // A limit belongs to one update.
    this.#last.limit.remove()
    this.#last.ratio.remove()
  }

  limited(seconds: number, ratio: number): void {
    this.#last.limit.set(seconds)
    this.#last.ratio.set(ratio)
  }

  failed(engine: string, strategy: string, error: CkptError): void {
    this.#updates.inc({ engine, strategy, result: 'failed' })
    this.#failures.inc({ code: originOf(error).code })
    if (error.fields['rolledBack'] !== undefined) this.#rollbacks.inc()
  }

  refused(error: CkptError): void {
    this.#failures.inc({ code: error.code })
  }

  /** `end` is called once the rank closes. */
  endWith(end: () => Promise<void>): void {
    this.#ends.push(end)
  }

  async closed(): Promise<void> {
    const ends = this.#ends
    this.#ends = []
    await Promise.all(ends.map((end) => end()))
  }
}

/** Gauges that are read from the rank on every request. */
function readWhenAsked({ worldSize, engines, reasons }: Omit<MetricsSources, 'rank'>, registers: Registry[]): void {
  new Gauge({
    name: 'ckpt_dirty_engines',
    help: 'Engine workers of all ranks that may hold parts of an update, as known to this rank',
    labelNames: ['engine'],
    registers,
    collect() {
      this.reset()
      for (const { engine, dirty } of engines()) this.inc({ engine }, dirty ? 1 : 0)
    },
  })
  new Gauge({
    name: 'ckpt_engine_version_info',
    help: 'Version that each engine worker serves, as known to this rank; always 1',
    labelNames: ['engine', 'worker', 'version'],
    registers,
    collect() {
      this.reset()
      for (const { engine, rank: worker, version } of engines()) this.set({ engine, worker, version: version ?? '' }, 1)
    },
  })
  new Gauge({ name: 'ckpt_world_size', help: 'Number of ranks', registers, collect() { this.set(worldSize()) } }) // prettier-ignore
  new Gauge({
    name: 'ckpt_ready',
    help: '1 if this rank can take an update, else 0',
    registers,
    collect() {
      this.set(reasons().length === 0 ? 1 : 0)
    },
  })
}

/** Returns the first error: an abort carries that of a different rank. */
function originOf(error: CkptError): CkptError {
  return error.code === 'ABORTED' && CkptError.is(error.cause) ? error.cause : error
}
