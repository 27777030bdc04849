import { randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { ParameterServer } from '@ckpt/core'
import type { HttpPlugin } from '../options.ts'
import { clusterState, reportRank } from './cluster.ts'
import { HistoryFile } from './history-file.ts'
import { clusterPage, livePage } from './page.ts'

/** Minimum interval in milliseconds between notifications of a page. */
const INTERVAL_MS = 100
/** Shorter than the time after which a proxy or a browser considers a connection dead. */
const HEARTBEAT_MS = 15_000
/** Maximum number of open event streams, in all and from one address. */
const MOST_STREAMS = 64
const MOST_STREAMS_OF_ONE = 16
/** Time in milliseconds without reading after which a reader counts as gone. */
const STALLED_MS = 60_000

/** Returns all data of the page, as `GET /v1/live` does. */
export function liveState(server: ParameterServer) {
  const { activity, rank, worldSize, device } = server
  const { checkpoints, members, running, history } = activity
  const own = { rank, host: '', device: device.uuid }
  return {
    // eslint-disable-next-line no-restricted-properties -- for people to read
    now: Date.now(),
    rank,
    worldSize,
    device: { kind: device.kind, uuid: device.uuid },
    members: members.length > 0 ? members : [own],
    checkpoints,
    engines: server.engineStates(),
    running: running ?? null,
    history,
  }
}

function tooMany(all: number, own: number): Error {
  const text = `${all} event streams are open, ${own} of them from this address; the limits are ${MOST_STREAMS} and ${MOST_STREAMS_OF_ONE}: close a page`
  return Object.assign(new Error(text), { statusCode: 429 })
}

/** Streams of server-sent events about changes, and the addresses of their readers. */
class EventStreams {
  readonly #open = new Map<PassThrough, string>()
  readonly #server: ParameterServer

  constructor(server: ParameterServer) {
    this.#server = server
  }

  endAll(): void {
    for (const stream of this.#open.keys()) stream.end()
  }

  /** Starts a new stream to the reader at `socket`. @throws Error with statusCode 429 if too many are open. */
  start(socket: Socket): PassThrough {
    const reader = socket.remoteAddress ?? ''
    const own = [...this.#open.values()].filter((address) => address === reader).length
    if (this.#open.size >= MOST_STREAMS || own >= MOST_STREAMS_OF_ONE) throw tooMany(this.#open.size, own)
    const stream = new PassThrough()
    this.#open.set(stream, reader)
    const stop = this.#sendChanges(stream)
    const stopBeating = keepAlive(stream, socket)
    const close = () => {
      this.#open.delete(stream)
      stop()
      stopBeating()
    }
    stream.on('close', close).on('error', close)
    // A reader of an endless stream that has closed its own half is a page that is gone.
    socket.once('end', () => socket.destroy())
    return stream
  }

  /** Sends the state now and after each change. Returns a function that stops this. */
  #sendChanges(stream: PassThrough): () => void {
    let timer: NodeJS.Timeout | undefined
    let sent = 0
    const send = () => {
      timer = undefined
      sent = performance.now()
      // A reader that is behind receives nothing: the next state contains everything.
      if (!stream.writableNeedDrain) stream.write(`data: ${JSON.stringify(liveState(this.#server))}\n\n`)
    }
    // The first change after a quiet period is sent at once, because an update may be short.
    const changed = () => void (timer ??= setTimeout(send, Math.max(0, sent + INTERVAL_MS - performance.now())))
    this.#server.activity.on('change', changed)
    send()
    return () => {
      clearTimeout(timer)
      this.#server.activity.off('change', changed)
    }
  }
}

/**
 * Sends comments while nothing changes, and ends a connection whose reader reads nothing. Returns a function that stops this.
 */
function keepAlive(stream: PassThrough, socket: Socket): () => void {
  let taken = performance.now()
  const heartbeat = setInterval(() => {
    if (stream.writableNeedDrain) {
      if (performance.now() - taken > STALLED_MS) socket.destroy()
      return
    }
    taken = performance.now()
    stream.write(': \n\n')
  }, HEARTBEAT_MS)
  return () => clearInterval(heartbeat)
}

/** Options of the live page. */
export interface LiveOptions {
  /** File that keeps the history of updates across restarts of the process (default: none; it is lost). */
  readonly history?: string
}

/** Returns the plugin {@link live} with options. */
export function liveWith({ history }: LiveOptions): HttpPlugin {
  return async (app, server) => {
    if (history !== undefined) {
      const file = new HistoryFile(history)
      await file.keep(server.activity)
      app.addHook('onClose', () => file.settled())
    }
    await live(app, server)
  }
}

/**
 * A page at `/live` that shows this rank's members, checkpoints, updates and engines as they change; `GET /v1/live` returns the
 * same as JSON, `GET /v1/live/events` as a stream of server-sent events. With a token, open `/live#token=…`: the page itself
 * contains no data. `/cluster` and `GET /v1/cluster` show every rank of the world.
 */
export const live: HttpPlugin = (app: FastifyInstance, server: ParameterServer) => {
  const streams = new EventStreams(server)
  const stopReporting = reportRank(server)
  app.addHook('onClose', () => {
    stopReporting()
    return Promise.resolve()
  })
  app.addHook('preClose', () => {
    streams.endAll()
    return Promise.resolve()
  })

  const send = (reply: FastifyReply, page: (nonce: string) => string) => {
    const nonce = randomBytes(16).toString('base64')
    const policy = `default-src 'none'; connect-src 'self'; style-src 'nonce-${nonce}'; script-src 'nonce-${nonce}'`
    void reply.header('content-security-policy', `${policy}; base-uri 'none'; frame-ancestors 'none'`)
    void reply.header('cache-control', 'no-store')
    return reply.type('text/html; charset=utf-8').send(page(nonce))
  }
  app.get('/live', { schema: { hide: true } }, (_, reply) => send(reply, livePage))
  app.get('/cluster', { schema: { hide: true } }, (_, reply) => send(reply, clusterPage))

  app.get(
    '/v1/cluster',
    { schema: { summary: 'Every rank of the world: membership, engines, links, last update' } },
    async (_, reply) => reply.type('application/json').send(JSON.stringify(await clusterState(server))),
  )

  app.get(
    '/v1/live',
    { schema: { summary: 'Members, checkpoints, updates and engines as this rank knows them' } },
    (_, reply) => reply.type('application/json').send(JSON.stringify(liveState(server))),
  )

  app.get(
    '/v1/live/events',
    { schema: { summary: 'The same, whenever it changes, as server-sent events' } },
    ({ raw }, reply) => {
      const stream = streams.start(raw.socket)
      raw.on('close', () => stream.destroy())
      return reply.header('cache-control', 'no-store').type('text/event-stream').send(stream)
    },
  )
}
