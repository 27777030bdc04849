import type { Socket } from 'node:net'

/** At most so many pieces are done in one turn of the event loop where no connection came. */
const IN_A_TURN = 8
/** While connections come and few pieces wait, one is done in so many turns. */
const TURNS_A_PIECE = 4

/**
 * What can wait, in the order in which it came, one piece a connection: a few pieces a turn of the event loop, and far fewer in turns that a
 * new connection came in. The event loop accepts one connection a turn, so that a caller behind thousands waits for as many short turns.
 */
export class Turns {
  readonly #pieces = new Map<Socket, () => void>()
  #hurry = false
  #hurried = 0
  #waiting = false

  readonly #crowd: number

  /** @param crowd Where more pieces wait, one is done in each turn, so that they do not become ever more. */
  constructor(crowd: number) {
    this.#crowd = crowd
  }

  /** Called with each new connection. */
  hurry(): void {
    this.#hurry = true
  }

  /** Adds what is to be done for a connection. */
  push(socket: Socket, piece: () => void): void {
    this.#pieces.set(socket, piece)
    if (this.#waiting) return
    this.#waiting = true
    setImmediate(this.#run)
  }

  /** Forgets a connection. */
  drop(socket: Socket): void {
    this.#pieces.delete(socket)
  }

  readonly #run = () => {
    let left = IN_A_TURN
    if (this.#hurry) left = this.#pieces.size > this.#crowd || ++this.#hurried % TURNS_A_PIECE === 0 ? 1 : 0
    this.#hurry = false
    for (const [socket, piece] of this.#pieces) {
      if (left-- === 0) break
      this.#pieces.delete(socket)
      piece()
    }
    this.#waiting = this.#pieces.size > 0
    if (this.#waiting) setImmediate(this.#run)
  }
}
