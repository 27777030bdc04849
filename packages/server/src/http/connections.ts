import { readFileSync } from 'node:fs'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { FirstRequests, type FirstRequestOptions } from './first-requests.ts'

/** Most connections that are kept, whatever the limit of open files. */
const MOST = 1024
/** How long a connection that has shown no right to call may last, in milliseconds. */
const STRANGER_MS = 10_000
const SWEEP_MS = 1000
/** A connection that was just accepted has this long to be heard before it is ended in another's place, in milliseconds. */
const HEARD_MS = 250

/** Connections to keep, in the order in which they came. */
interface Held {
  readonly since: number
  /** A request is being answered. */
  active: boolean
  /** Requests behind it, of which the next begins when its answer has been taken. */
  readonly pipelined: (() => void)[]
}

export interface ConnectionLimits {
  /** Connections that are kept at the same time. */
  readonly most?: number
  /** How long a connection that has shown no right to call may last, in milliseconds. */
  readonly strangerMs?: number
  /** True if the head of a connection's first request shows a right to call: it is answered before those that show none (default: none does). */
  readonly mayCall?: FirstRequestOptions['mayCall']
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
  readonly #mayCall: FirstRequestOptions['mayCall'] | undefined
  readonly #all = [this.#waiting, this.#answering, this.#busy, this.#idle]
  /** Answers that end their connection unless the caller is admitted: what the request asked for. */
  readonly #wanted = new WeakMap<ServerResponse, boolean>()

  constructor({ most = mostConnections(), strangerMs = STRANGER_MS, mayCall }: ConnectionLimits = {}) {
    this.most = most
    this.#strangerMs = strangerMs
    this.#mayCall = mayCall
  }

  /** Connections that are held now. */
  get size(): number {
    return this.#all.reduce((sum, { size }) => sum + size, 0)
  }

  /** Watches a server that is not listening yet. */
  watch(server: Server): void {
    // Node's own listener attaches a parser.
    const parsers = server.listeners('connection') as ((socket: Socket) => void)[]
    server.removeAllListeners('connection')
    const first = new FirstRequests({
      mayCall: this.#mayCall ?? (() => false),
      crowd: this.#mayCall ? this.most / 4 : 0,
      parse: (socket, bytes) => {
        const held = this.#waiting.get(socket)
        if (held === undefined || socket.destroyed) return
        this.#move(socket, held, this.#answering)
        if (bytes.length > 0) socket.unshift(bytes)
        for (const attach of parsers) attach.call(server, socket)
        socket.resume()
      },
    })
    server.on('connection', (socket: Socket) => {
      if (this.#accept(socket)) first.read(socket)
    })
    const sweep = setInterval(() => this.#sweep(), SWEEP_MS)
    sweep.unref()
    server.on('close', () => clearInterval(sweep))
  }

  /** Ends connections that have not sent a request: a server that closes does not wait for them. */
  endWaiting(): void {
    for (const socket of this.#waiting.keys()) this.#end(socket)
  }

  /**
   * Called with each request before anything else is done with it; `handle` answers it. What is pipelined behind it waits until its answer has been
   * taken, so that one connection never holds more than one answer, and no more requests than came with one read. Behind a stranger's
   * first request nothing is looked at: the connection ends with the first answer.
   */
  begin(request: IncomingMessage, response: ServerResponse, handle: () => void): void {
    const { socket } = request
    const caller = this.#busy.get(socket) ?? this.#idle.get(socket)
    const held = caller ?? this.#answering.get(socket)
    if (held === undefined) return
    if (held.active) {
      // The one before it is complete: this one's head has been read.
      held.pipelined.push(() => this.begin(request, response, handle))
      socket.pause()
      return
    }
    held.active = true
    if (caller !== undefined) this.#move(socket, caller, this.#busy)
    else {
      socket.pause()
      this.#wanted.set(response, response.shouldKeepAlive)
      response.shouldKeepAlive = false
    }
    response.once('close', () => {
      // The answer came before the end of the body: nobody reads the rest.
      if (!request.complete) socket.destroy()
      const held = this.#busy.get(socket)
      if (held !== undefined) this.#next(socket, held)
    })
    handle()
  }

  /** Begins what is pipelined behind a caller's request that has been answered, once others have had their turn. */
  #next(socket: Socket, held: Held): void {
    const begin = held.pipelined.shift()
    if (begin === undefined) {
      held.active = false
      this.#move(socket, held, this.#idle)
      return
    }
    setImmediate(() => {
      if (socket.destroyed || socket.writableEnded) return
      held.active = false
      begin()
      this.#readOn(socket, held)
    })
  }

  /** The request of this answer has shown that it may be made. */
  admit(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request
    const held = this.#answering.get(socket)
    if (held === undefined) return
    this.#move(socket, held, this.#busy)
    response.shouldKeepAlive = this.#wanted.get(response) ?? false
    this.#readOn(socket, held)
  }

  /** Reads what follows, unless something waits that was read before. */
  #readOn(socket: Socket, { pipelined }: Held): void {
    if (pipelined.length === 0) socket.resume()
    else socket.pause()
  }

  /** The request of this answer may not be made: its connection ends with the answer. */
  refuse(response: ServerResponse): void {
    response.shouldKeepAlive = false
  }

  /** False where there are too many already. */
  #accept(socket: Socket): boolean {
    if (this.size >= this.most && !this.#evict()) {
      reset(socket)
      return false
    }
    this.#waiting.set(socket, { since: performance.now(), active: false, pipelined: [] })
    socket.once('close', () => this.#forget(socket))
    return true
  }

  /** Ends one connection. False where all are callers' that are being answered. */
  #evict(): boolean {
    const kept = this.#idle.size > this.most / 2 ? first(this.#idle) : undefined
    const heard = performance.now() - HEARD_MS
    const silent = first(this.#waiting, ({ since }) => since < heard)
    const socket = kept ?? silent ?? first(this.#answering) ?? first(this.#idle) ?? first(this.#waiting)
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
    const caller = this.#busy.has(socket) || this.#idle.has(socket)
    this.#forget(socket)
    if (caller) socket.destroy()
    else reset(socket)
  }

  #move(socket: Socket, held: Held, to: Map<Socket, Held>): void {
    this.#forget(socket)
    to.set(socket, held)
  }

  #forget(socket: Socket): void {
    for (const sockets of this.#all) sockets.delete(socket)
  }
}

/** Ends a connection at once, so that the system keeps nothing of it; unix sockets have no such end. */
function reset(socket: Socket): void {
  if (socket.remoteFamily === undefined) socket.destroy()
  else socket.resetAndDestroy()
}

/** The first that came, if it is as it should be. */
function first(sockets: ReadonlyMap<Socket, Held>, fits: (held: Held) => boolean = () => true): Socket | undefined {
  for (const [socket, held] of sockets) return fits(held) ? socket : undefined
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
