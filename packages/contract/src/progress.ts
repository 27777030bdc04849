/** Receives the number of bytes done and the total. */
export type ByteProgress = (bytesDone: number, bytesTotal: number) => void

/**
 * Progress for observers, from several sources, attempts and late callbacks: it never passes 100 %, never goes back, and
 * `finish` makes it exactly 100 %. A figure that would go back is left out.
 */
export class SteadyProgress {
  readonly #tell: ByteProgress
  #done = -1
  #total = 0
  #finished = false

  constructor(tell: ByteProgress) {
    this.#tell = tell
  }

  /**
   * Reports the current progress. The total may change, for example if a second attempt works differently: then the fraction
   * done decides.
   */
  readonly report: ByteProgress = (bytesDone, bytesTotal) => {
    if (this.#finished) return
    const done = Math.min(Math.max(bytesDone, 0), bytesTotal)
    const back = this.#done >= 0 && part(done, bytesTotal) < part(this.#done, this.#total)
    if (back || (done === this.#done && bytesTotal === this.#total)) return
    this.#done = done
    this.#total = bytesTotal
    this.#tell(done, bytesTotal)
  }

  /** Reports that everything is done; nothing is reported after it. */
  finish(): void {
    this.report(this.#total, this.#total)
    this.#finished = true
  }
}

/** Zero of zero counts as done. */
function part(done: number, total: number): number {
  return total === 0 ? 1 : done / total
}
