import { readFileSync } from 'node:fs'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { TLSSocket } from 'node:tls'
import { FirstRequests, type FirstRequestOptions } from './first-requests.ts'

/** Maximum number of connections, whatever the limit of open files. */
const MOST = 1024
/** Maximum duration in milliseconds of a connection that has shown no right to call. */
const STRANGER_MS = 10_000
const SWEEP_MS = 1000
/** Time in milliseconds for a newly accepted connection to send something before it is ended in favour of another one. */
const HEARD_MS = 250

/** Connections to keep, in order of arrival. */
interface Held {
  readonly since: number
  /** True while a request is being answered. */
  active: boolean
  /** Pipelined requests; the next begins when the answer to the one before was read. */
  readonly pipelined: (() => void)[]
}

export interface ConnectionLimits {
  /** Maximum number of connections. */
  readonly most?: number
  /** Maximum duration in milliseconds of a connection that has shown no right to call. */
  readonly strangerMs?: number
  /**
   * Returns true if the head of a connection's first request shows a right to call: it is answered before those that do not
   * (default: none does).
   */
  readonly mayCall?: FirstRequestOptions['mayCall']
}

/**
 * The connections of an HTTP server. A connection that has shown no right to call gets one answer and is closed, and lasts a
 * few seconds at most. If there are too many, strangers are ended first: the oldest that have not sent a request, then the
 * oldest that are being answered, then idle connections of callers. If idle connections of callers are more than half, they are
 * ended before all of these, so that a new connection always has time to send its request. A connection is refused only if
 * every other one is a caller's that is being answered.
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
  /** Answers that end their connection unless the caller is admitted, with the request's own wish. */
  readonly #wanted = new WeakMap<ServerResponse, boolean>()

  constructor({ most = mostConnections(), strangerMs = STRANGER_MS, mayCall }: ConnectionLimits = {}) {
    this.most = most
    this.#strangerMs = strangerMs
    this.#mayCall = mayCall
  }

  /** Number of current connections. */
  get size(): number {
    return this.#all.reduce((sum, { size }) => sum + size, 0)
  }

  /** Watches a server that is not listening yet; of one with TLS, connections whose handshake is done (`secureConnection`). */
  watch(server: Server, event: 'connection' | 'secureConnection' = 'connection'): void {
    // Node's own listener attaches a parser.
    const parsers = server.listeners(event) as ((socket: Socket) => void)[]
    server.removeAllListeners(event)
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
    server.on(event, (socket: Socket) => {
      if (this.#accept(socket)) first.read(socket)
    })
    if (event === 'secureConnection') limitHandshakes(server, this.most)
    const sweep = setInterval(() => this.#sweep(), SWEEP_MS)
    sweep.unref()
    server.on('close', () => clearInterval(sweep))
  }

  /** Ends connections that have not sent a request: a closing server does not wait for them. */
  endWaiting(): void {
    for (const socket of this.#waiting.keys()) this.#end(socket)
  }

  /**
   * Called with each request before anything else is done with it; `handle` answers it. Pipelined requests wait until the
   * answer has been read, so that one connection never holds more than one answer, and no more requests than came with one
   * read. After a stranger's first request nothing is read: the connection ends with the first answer.
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
      // The answer preceded the end of the body: nobody reads the rest.
      if (!request.complete) socket.destroy()
      const held = this.#busy.get(socket)
      if (held !== undefined) this.#next(socket, held)
    })
    handle()
  }

  /** Begins the next pipelined request of a caller after an answer, once others have had their turn. */
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

  /** Marks the request of this answer as permitted. */
  admit(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request
    const held = this.#answering.get(socket)
    if (held === undefined) return
    this.#move(socket, held, this.#busy)
    response.shouldKeepAlive = this.#wanted.get(response) ?? false
    this.#readOn(socket, held)
  }

  /** Reads what follows, unless a request that was read before is waiting. */
  #readOn(socket: Socket, { pipelined }: Held): void {
    if (pipelined.length === 0) socket.resume()
    else socket.pause()
  }

  /** Marks the request of this answer as refused: its connection ends with the answer. */
  refuse(response: ServerResponse): void {
    response.shouldKeepAlive = false
  }

  /** Returns false if there are too many already. */
  #accept(socket: Socket): boolean {
    if (this.size >= this.most && !this.#evict()) {
      reset(socket)
      return false
    }
    this.#waiting.set(socket, { since: performance.now(), active: false, pipelined: [] })
    socket.once('close', () => this.#forget(socket))
    return true
  }

  /** Ends one connection. Returns false if all belong to callers that are being answered. */
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

/** Ends a connection at once, so that the system keeps nothing of it; this is not possible for unix sockets. */
function reset(socket: Socket): void {
  if (socket.remoteFamily === undefined || socket instanceof TLSSocket) socket.destroy()
  else socket.resetAndDestroy()
}

/** Ends the oldest connections whose TLS handshake is not done, so that at most `most` of them exist. */
function limitHandshakes(server: Server, most: number): void {
  const waiting = new Map<string, Socket>()
  const name = ({ remoteAddress, remotePort }: Socket) => `${remoteAddress} ${remotePort}`
  server.prependListener('connection', (socket: Socket) => {
    const key = name(socket)
    waiting.set(key, socket)
    socket.once('close', () => waiting.get(key) === socket && waiting.delete(key))
    if (waiting.size <= most) return
    const [oldest] = waiting.values()
    if (oldest !== undefined) reset(oldest)
  })
  server.on('secureConnection', (socket: Socket) => waiting.delete(name(socket)))
}

/** Returns the first one in order of arrival, if it fulfils the condition. */
function first(sockets: ReadonlyMap<Socket, Held>, fits: (held: Held) => boolean = () => true): Socket | undefined {
  for (const [socket, held] of sockets) return fits(held) ? socket : undefined
  return undefined
}

/**
 * Returns half of the files that this process may open, so that the other half is left for checkpoints and ranks; at most
 * {@link MOST}.
 */
function mostConnections(): number {
  try {
    const soft = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]
    return soft === undefined ? MOST : Math.max(16, Math.min(MOST, Math.floor(Number(soft) / 2)))
  } catch {
    return MOST
  }
}
