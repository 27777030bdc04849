/** Told how many bytes of how many are done. */
export type ByteProgress = (bytesDone: number, bytesTotal: number) => void

/**
 * Progress for those who look on, whatever several sources, attempts and late callbacks say: it never passes 100 %, never goes back, and
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

  /** What is done by now. The total may change, as when a second attempt does it in a different way: then the part done decides. */
  readonly report: ByteProgress = (bytesDone, bytesTotal) => {
    if (this.#finished) return
    const done = Math.min(Math.max(bytesDone, 0), bytesTotal)
    const back = this.#done >= 0 && part(done, bytesTotal) < part(this.#done, this.#total)
    if (back || (done === this.#done && bytesTotal === this.#total)) return
    this.#done = done
    this.#total = bytesTotal
    this.#tell(done, bytesTotal)
  }

  /** Everything is done; nothing is told after it. */
  finish(): void {
    this.report(this.#total, this.#total)
    this.#finished = true
  }
}

/** Nothing to do is done. */
function part(done: number, total: number): number {
  return total === 0 ? 1 : done / total
}
