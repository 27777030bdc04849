import type { ChildProcess } from 'node:child_process'
import { finishedLine, progressLine, type Amount, type StepState } from './progress-line.ts'

/** Time between two drawings, or messages to the parent process, in milliseconds. */
const EVERY_MS = 100
/** Time in milliseconds after which a step draws its first bar: shorter steps only say that they are over. */
const FIRST_MS = 200

/** Message of a rank to the process that started it. */
interface ProgressMessage extends Amount {
  readonly ckptProgress: string
  readonly rank: number
  readonly isOver: boolean
}

/** The line on the terminal that is drawn again and again. */
let drawn = false

/** Writes a line to stderr; a progress bar that is drawn there moves down. */
export function tell(text: string): void {
  erase()
  process.stderr.write(`${text}\n`)
}

function erase(): void {
  if (drawn) process.stderr.write('\r\u001b[K')
  drawn = false
}

/** Draws one step: a bar on a terminal, and one line when it is over. */
class Step {
  readonly #label: string
  readonly #expected: number
  readonly #ranks = new Map<number, Amount>()
  readonly #over = new Set<number>()
  readonly #began = performance.now()
  #last = 0

  constructor(label: string, expected: number) {
    this.#label = label
    this.#expected = expected
  }

  /** True once all ranks have ended it. */
  get isOver(): boolean {
    return this.#over.size >= this.#expected
  }

  update(rank: number, amount: Amount, isOver: boolean): void {
    this.#ranks.set(rank, amount)
    if (isOver) this.#over.add(rank)
    const now = performance.now()
    if (!process.stderr.isTTY || now - this.#began < FIRST_MS || now - this.#last < EVERY_MS) return
    this.#last = now
    process.stderr.write(`\r${progressLine(this.#state(), (process.stderr.columns || 80) - 1)}\u001b[K`)
    drawn = true
  }

  end(): void {
    if (this.#ranks.size > 0) tell(finishedLine(this.#state()))
    else erase()
  }

  #state(): StepState {
    const elapsedMs = performance.now() - this.#began
    return { label: this.#label, ranks: this.#ranks, expected: this.#expected, elapsedMs }
  }
}

/** Progress of one step of this rank: shown by the process that started all ranks if there is one, otherwise by rank 0. */
export class RankProgress implements Disposable {
  readonly #label: string
  readonly #rank: number
  readonly #report: ((amount: Amount, isOver: boolean) => void) | undefined
  #amount: Amount | undefined
  #sent = -Infinity

  /** @param enabled - false: nothing is shown */
  constructor(label: string, { rank, worldSize }: { readonly rank: number; readonly worldSize: number }, enabled: boolean) {
    this.#label = label
    this.#rank = rank
    if (!enabled) return
    if (process.send !== undefined) this.#report = this.#send.bind(this)
    else if (rank === 0) {
      const step = new Step(worldSize > 1 ? `${label} (rank 0)` : label, 1)
      this.#report = (amount, isOver) => {
        step.update(rank, amount, isOver)
        if (isOver) step.end()
      }
    }
  }

  update(done: number, total: number): void {
    this.#amount = { done, total }
    this.#report?.(this.#amount, false)
  }

  [Symbol.dispose](): void {
    if (this.#amount !== undefined) this.#report?.(this.#amount, true)
  }

  #send(amount: Amount, isOver: boolean): void {
    const now = performance.now()
    if (!process.connected || (!isOver && now - this.#sent < EVERY_MS)) return
    this.#sent = now
    const message: ProgressMessage = { ckptProgress: this.#label, rank: this.#rank, isOver, ...amount }
    // The parent may have ended meanwhile.
    process.send?.(message, undefined, undefined, () => undefined)
  }
}

/** Shows what ranks that this process started report, all of a step in one line. */
export class AllRanksProgress {
  readonly #expected: number
  readonly #steps = new Map<string, Step>()

  constructor(ranks: number) {
    this.#expected = ranks
  }

  watch(child: ChildProcess): void {
    child.on('message', (message) => {
      if (!isProgress(message)) return
      const { ckptProgress: label, rank, isOver, done, total } = message
      const step = this.#steps.get(label) ?? new Step(label, this.#expected)
      this.#steps.set(label, step)
      step.update(rank, { done, total }, isOver)
      if (step.isOver) this.#end(label, step)
    })
  }

  /** Ends steps that a rank has left. */
  end(): void {
    for (const [label, step] of this.#steps) this.#end(label, step)
  }

  #end(label: string, step: Step): void {
    this.#steps.delete(label)
    step.end()
  }
}

function isProgress(message: unknown): message is ProgressMessage {
  return typeof message === 'object' && message !== null && 'ckptProgress' in message
}
