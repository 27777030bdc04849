import type { Socket } from 'node:net'

/** Maximum pieces per turn of the event loop if no connection arrived. */
const IN_A_TURN = 8
/** Turns per piece while connections arrive and few pieces wait. */
const TURNS_A_PIECE = 4

/**
 * Work that can wait, in order of arrival, one piece per connection: a few pieces per turn of the event loop, and far fewer in
 * turns with a new connection. The event loop accepts one connection per turn, so a caller behind thousands waits for as many
 * short turns.
 */
export class Turns {
  readonly #pieces = new Map<Socket, () => void>()
  #hurry = false
  #hurried = 0
  #waiting = false

  readonly #crowd: number

  /** @param crowd Number of waiting pieces above which one is done in each turn, so that their number does not grow. */
  constructor(crowd: number) {
    this.#crowd = crowd
  }

  /** Called with each new connection. */
  hurry(): void {
    this.#hurry = true
  }

  /** Adds work for a connection. */
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
