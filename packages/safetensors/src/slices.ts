import { setImmediate } from 'node:timers/promises'

/** Maximum time in milliseconds for which one file may block the event loop. */
const SLICE_MS = 10
/** Steps between two checks of the clock. */
const STEPS = 64
/** Number of files whose headers are read at the same time, in this process. */
const MOST_FILES = 16
/** Bytes of headers that are read at the same time; the objects created from them take several times as much. */
const MOST_BYTES = 128 * 2 ** 20

/** Divides long work into slices, between which everything else in the process continues. */
export class Slices {
  #until = performance.now() + SLICE_MS
  #steps = 0

  /** True after a step of the work if a slice is over: then wait for {@link pause}. */
  get isOver(): boolean {
    return ++this.#steps % STEPS === 0 && performance.now() > this.#until
  }

  async pause(): Promise<void> {
    await setImmediate()
    this.#until = performance.now() + SLICE_MS
  }

  /** Runs all steps and returns their result. */
  static async run<T>(steps: Iterator<void, T>): Promise<T> {
    const slices = new Slices()
    for (;;) {
      const { done, value } = steps.next()
      if (done === true) return value
      if (slices.isOver) await slices.pause()
    }
  }
}

let files = 0
let bytes = 0
const waiting: (() => void)[] = []

/**
 * Waits until a header of this many bytes may be read together with those in progress; call the resolved function when it is
 * read.
 */
export async function headerTurn(size: number): Promise<() => void> {
  // A large one is read alone.
  while (files >= MOST_FILES || (files > 0 && bytes + size > MOST_BYTES)) {
    await new Promise<void>((resolve) => waiting.push(resolve))
  }
  files++
  bytes += size
  return () => {
    files--
    bytes -= size
    for (const wake of waiting.splice(0)) wake()
  }
}

/** Maximum number of elements that are sorted without a pause. */
const RUN = 4096

/** Sorts in place, in steps; ends at once if everything is in order. */
export function* sortSteps<T>(values: T[], compare: (a: T, b: T) => number): Generator<void, void> {
  let sorted = 1
  while (sorted < values.length && compare(values[sorted - 1]!, values[sorted]!) <= 0) sorted++
  if (sorted >= values.length) return
  for (let at = 0; at < values.length; at += RUN) {
    const run = values.slice(at, at + RUN).sort(compare)
    for (let i = 0; i < run.length; i++) values[at + i] = run[i]!
    yield
  }
  for (let width = RUN; width < values.length; width *= 2) {
    for (let at = 0; at + width < values.length; at += 2 * width) yield* mergeSteps(values, at, width, compare)
  }
}

/** Merges two neighbours of `width` elements, each sorted. */
function* mergeSteps<T>(values: T[], at: number, width: number, compare: (a: T, b: T) => number): Generator<void, void> {
  const left = values.slice(at, at + width)
  const end = Math.min(at + 2 * width, values.length)
  let from = 0
  let right = at + width
  for (let to = at; from < left.length; to++) {
    values[to] = right < end && compare(left[from]!, values[right]!) > 0 ? values[right++]! : left[from++]!
    if (to % 64 === 0) yield
  }
}
