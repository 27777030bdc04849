import { readFileSync } from 'node:fs'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/** Most connections that are kept, whatever the limit of open files. */
const MOST = 1024
/** How long a connection that has shown no right to call may last, in milliseconds. */
const STRANGER_MS = 10_000
const SWEEP_MS = 1000

/** Connections to keep, in the order in which they came. */
interface Held {
  readonly since: number
  /** Requests that are being answered. */
  active: number
}

export interface ConnectionLimits {
  /** Connections that are kept at the same time. */
  readonly most?: number
  /** How long a connection that has shown no right to call may last, in milliseconds. */
  readonly strangerMs?: number
}

/**
 * The connections of an HTTP server. One that has shown no right to call gets one answer and is closed, and lasts a few seconds at most.
 * Where there are too many, strangers go first: the oldest that have not sent a request, then the oldest that are being answered, then idle
 * connections of callers; before all of them idle connections of callers where these are more than half, so that a new connection always
 * has time to send its request. One is refused only where every other is a caller's that is being answered.
 */
export class Connections {
  readonly most: number
  readonly #strangerMs: number
  /** Strangers that have not sent a request. */
  readonly #waiting = new Map<Socket, Held>()
  /** Strangers that are being answered. */
  readonly #answering = new Map<Socket, Held>()
  /** Callers that are being answered. */
  readonly #busy = new Map<Socket, Held>()
  /** Connections that callers keep for their next request, in the order in which they became idle. */
  readonly #idle = new Map<Socket, Held>()
  readonly #all = [this.#waiting, this.#answering, this.#busy, this.#idle]
  /** Answers that end their connection unless the caller is admitted: what the request asked for. */
  readonly #wanted = new WeakMap<ServerResponse, boolean>()

  constructor({ most = mostConnections(), strangerMs = STRANGER_MS }: ConnectionLimits = {}) {
    this.most = most
    this.#strangerMs = strangerMs
  }

  /** Connections that are held now. */
  get size(): number {
    return this.#all.reduce((sum, { size }) => sum + size, 0)
  }

  /** Watches a server that is not listening yet. */
  watch(server: Server): void {
    server.on('connection', (socket: Socket) => this.#accept(socket))
    const sweep = setInterval(() => this.#sweep(), SWEEP_MS)
    sweep.unref()
    server.on('close', () => clearInterval(sweep))
  }

  /** Called with each request before anything else is done with it. False where it is not to be answered: its connection ends. */
  begin(request: IncomingMessage, response: ServerResponse): boolean {
    const { socket } = request
    const caller = this.#busy.get(socket) ?? this.#idle.get(socket)
    if (caller !== undefined) {
      caller.active++
      this.#move(socket, caller, this.#busy)
    } else {
      const held = this.#waiting.get(socket)
      // Nothing that is pipelined behind a stranger's first request is looked at.
      if (held === undefined) return false
      held.active++
      this.#move(socket, held, this.#answering)
      this.#wanted.set(response, response.shouldKeepAlive)
      response.shouldKeepAlive = false
    }
    response.once('close', () => {
      const held = this.#busy.get(socket)
      if (held !== undefined && --held.active === 0) this.#move(socket, held, this.#idle)
      // The answer came before the end of the body: nobody reads the rest.
      if (!request.complete) socket.destroy()
    })
    return true
  }

  /** The request of this answer has shown that it may be made. */
  admit(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request
    const held = this.#answering.get(socket)
    if (held === undefined) return
    this.#move(socket, held, this.#busy)
    response.shouldKeepAlive = this.#wanted.get(response) ?? false
  }

  /** The request of this answer may not be made: its connection ends with the answer. */
  refuse(response: ServerResponse): void {
    response.shouldKeepAlive = false
  }

  #accept(socket: Socket): void {
    if (this.size >= this.most && !this.#evict()) {
      socket.destroy()
      return
    }
    this.#waiting.set(socket, { since: performance.now(), active: 0 })
    socket.once('close', () => this.#forget(socket))
  }

  /** Ends one connection. False where all are callers' that are being answered. */
  #evict(): boolean {
    const kept = this.#idle.size > this.most / 2 ? first(this.#idle) : undefined
    const socket = kept ?? first(this.#waiting) ?? first(this.#answering) ?? first(this.#idle)
    if (socket === undefined) return false
    this.#end(socket)
    return true
  }

  #sweep(): void {
    const before = performance.now() - this.#strangerMs
    for (const strangers of [this.#waiting, this.#answering]) {
      for (const [socket, { since }] of strangers) if (since < before) this.#end(socket)
    }
  }

  #end(socket: Socket): void {
    this.#forget(socket)
    socket.destroy()
  }

  #move(socket: Socket, held: Held, to: Map<Socket, Held>): void {
    this.#forget(socket)
    to.set(socket, held)
  }

  #forget(socket: Socket): void {
    for (const sockets of this.#all) sockets.delete(socket)
  }
}

function first(sockets: ReadonlyMap<Socket, Held>): Socket | undefined {
  for (const socket of sockets.keys()) return socket
  return undefined
}

/** Half of the files that this process may open, so that the other half is left for checkpoints and ranks; at most {@link MOST}. */
function mostConnections(): number {
  try {
    const soft = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]
    return soft === undefined ? MOST : Math.max(16, Math.min(MOST, Math.floor(Number(soft) / 2)))
  } catch {
    return MOST
  }
}
