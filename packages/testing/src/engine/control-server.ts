import { rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { Socket } from 'node:net'
import { CkptError } from '@ckpt/contract'
import { z } from 'zod'

/** A handler's answer: a status and a JSON body. */
export interface Answer {
  readonly status: number
  readonly body: unknown
}

export interface ControlServer {
  /** Open connections. */
  readonly connections: ReadonlySet<Socket>
  close(): Promise<void>
}

/** Handlers by `METHOD /path`; each gets the parsed JSON body. */
export type Routes = Readonly<Record<string, (body: unknown) => Promise<Answer>>>

const BODY_LIMIT = 16 * 2 ** 20

/** Serves JSON over HTTP on a unix socket that only the user may open. `close` removes the socket's file. */
export async function serveControl(socketPath: string, routes: Routes): Promise<ControlServer> {
  rmSync(socketPath, { force: true })
  const server: Server = createServer((request, response) => {
    void answer(request, routes).then(({ status, body }) => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    })
  })
  const connections = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    connections.add(socket)
    socket.once('close', () => connections.delete(socket))
  })
  // An update may take longer than Node's default of five minutes; its own deadline ends it.
  server.requestTimeout = 0
  const mask = process.umask(0o177)
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(socketPath, resolve)
    })
  } finally {
    process.umask(mask)
  }
  return {
    connections,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeIdleConnections()
      }),
  }
}

async function answer(request: IncomingMessage, routes: Routes): Promise<Answer> {
  const route = routes[`${request.method} ${request.url}`]
  if (!route) return failure(404, new CkptError('INVALID_ARGUMENT', `no ${request.method} ${request.url}`))
  try {
    const parts: Buffer[] = []
    let length = 0
    for await (const part of request) {
      parts.push(part as Buffer)
      length += (part as Buffer).length
      if (length > BODY_LIMIT) return failure(413, new CkptError('INVALID_ARGUMENT', 'the body is too large'))
    }
    const text = Buffer.concat(parts).toString()
    return await route(text === '' ? undefined : JSON.parse(text))
  } catch (error) {
    return failure(error instanceof z.ZodError || error instanceof SyntaxError ? 400 : 500, error)
  }
}

/** Converts an error to an answer. */
export function failure(status: number, error: unknown): Answer {
  const { name, message, stack } = error instanceof Error ? error : new Error(String(error))
  const type = CkptError.is(error) ? error.code : name
  return { status, body: { error: { type, message, ...(stack !== undefined && { traceback: stack }) } } }
}
