import type { CkptError } from '@ckpt/contract'
import type { UpdateReport } from './report.ts'

/** Observes one rank, for metrics and the like. Its methods must not throw: an exception would fail the caller. */
export interface RankObserver {
  /** A checkpoint of this many bytes was registered. */
  registered(bytes: number): void
  /** A registration failed. */
  refused(error: CkptError): void
  /** An attempt at an update began. */
  began(epoch: number): void
  /** An attempt failed, and the update starts again. */
  retried(): void
  updated(engine: string, report: UpdateReport): void
  failed(engine: string, strategy: string, error: CkptError): void
  /** Minimum time of the last update in seconds, and the ratio of its real time to it. */
  limited(seconds: number, ratio: number): void
  /** The rank closes: an observer that serves metrics ends. */
  closed(): Promise<void>
}

/** All observers of a rank. */
export class Observers implements RankObserver {
  readonly #all: RankObserver[] = []

  add(observer: RankObserver): void {
    this.#all.push(observer)
  }

  registered(bytes: number): void {
    for (const one of this.#all) one.registered(bytes)
  }

  refused(error: CkptError): void {
    for (const one of this.#all) one.refused(error)
  }

  began(epoch: number): void {
    for (const one of this.#all) one.began(epoch)
  }

  retried(): void {
    for (const one of this.#all) one.retried()
  }

  updated(engine: string, report: UpdateReport): void {
    for (const one of this.#all) one.updated(engine, report)
  }

  failed(engine: string, strategy: string, error: CkptError): void {
    for (const one of this.#all) one.failed(engine, strategy, error)
  }

  limited(seconds: number, ratio: number): void {
    for (const one of this.#all) one.limited(seconds, ratio)
  }

  async closed(): Promise<void> {
    await Promise.all(this.#all.map((one) => one.closed()))
  }
}
