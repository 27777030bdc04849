import { SingleBar, Presets } from 'cli-progress'
import { formatSize } from './sizes.ts'

/** A progress bar over bytes on stderr; occasional lines if stderr is not a terminal; nothing if `enabled` is false. */
export class ByteProgress implements Disposable {
  readonly #bar: SingleBar | undefined
  #started = false
  #total = 0

  constructor(label: string, enabled: boolean) {
    if (!enabled) return
    this.#bar = new SingleBar(
      {
        format: `${label.padEnd(10)} {bar} {percentage}% | {done} of {size} | {eta_formatted}`,
        stream: process.stderr,
        noTTYOutput: true,
        notTTYSchedule: 2000,
        hideCursor: true,
        clearOnComplete: false,
      },
      Presets.shades_classic,
    )
  }

  update(done: number, total: number): void {
    const payload = { done: formatSize(done), size: formatSize(total) }
    if (this.#started && total !== this.#total) this.#bar?.setTotal(total)
    if (this.#started) this.#bar?.update(done, payload)
    else this.#bar?.start(total, done, payload)
    this.#started = true
    this.#total = total
  }

  [Symbol.dispose](): void {
    if (this.#started) this.#bar?.stop()
  }
}
