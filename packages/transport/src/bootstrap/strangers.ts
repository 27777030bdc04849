/** Maximum number of connections that have proven nothing yet; an honest peer needs only milliseconds. */
export const MOST_STRANGERS = 256
/** Maximum number of connections that one endpoint serves. */
const MOST_CONNECTIONS = 4096

/** State of one connection. */
interface Connection {
  /** True once the peer has proven that it knows the secret. */
  readonly proven: boolean
  close(): Promise<void>
}

/** Connections of an endpoint: new ones displace the oldest one that has proven nothing, never one that has. */
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

  /** Adds a connection. @returns false if there are too many peers that have proven the secret */
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

  /** Marks that the connection's peer has proven that it knows the secret. */
  prove(connection: One): void {
    this.#strangers.delete(connection)
  }

  delete(connection: One): void {
    this.#all.delete(connection)
    this.#strangers.delete(connection)
  }
}
