/** Connections that have proven nothing yet may be this many; an honest peer is through in milliseconds. */
export const MOST_STRANGERS = 256
/** Connections that one endpoint serves. */
const MOST_CONNECTIONS = 4096

/** What is kept of one connection. */
interface Connection {
  /** True once the peer has proven that it knows the secret. */
  readonly proven: boolean
  close(): Promise<void>
}

/** The connections of an endpoint: those that come oust the oldest one that has proven nothing, never one that has. */
export class Connections<One extends Connection> implements Iterable<One> {
  readonly #all = new Set<One>()
  /** Oldest first. */
  readonly #strangers = new Set<One>()

  get size(): number {
    return this.#all.size
  }

  [Symbol.iterator](): Iterator<One> {
    return this.#all[Symbol.iterator]()
  }

  /** Takes a connection in. @returns false where there are too many of peers who have proven the secret. */
  add(connection: One): boolean {
    for (const oldest of this.#strangers) {
      if (this.#strangers.size < MOST_STRANGERS) break
      this.delete(oldest)
      void oldest.close()
    }
    if (this.#all.size >= MOST_CONNECTIONS) return false
    this.#all.add(connection)
    this.#strangers.add(connection)
    return true
  }

  /** The connection's peer has proven that it knows the secret. */
  prove(connection: One): void {
    this.#strangers.delete(connection)
  }

  delete(connection: One): void {
    this.#all.delete(connection)
    this.#strangers.delete(connection)
  }
}
