import { createServer, type Server } from 'node:http'
import type { EngineStart, WorkerEndpoint } from '@ckpt/contract'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { sglang, type SglangOptions } from './index.ts'

/** A peer that answers SGLang's routes as configured, over a real socket, and records the requests. */
class Peer {
  readonly asked: { route: string; body: unknown; authorization: string | undefined }[] = []
  answers: Record<string, { status?: number; body: unknown } | ((body: unknown) => { status?: number; body: unknown })> = {}
  readonly #server: Server

  constructor() {
    this.#server = createServer((request, response) => {
      let text = ''
      request.setEncoding('utf8').on('data', (part: string) => (text += part))
      request.on('end', () => {
        const route = `${request.method} ${request.url}`
        const body: unknown = text === '' ? undefined : JSON.parse(text)
        this.asked.push({ route, body, authorization: request.headers.authorization })
        const answer = this.answers[route]
        if (answer === undefined) return void response.writeHead(404).end()
        const { status = 200, body: out } = typeof answer === 'function' ? answer(body) : answer
        response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(out))
      })
    })
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
    return `http://127.0.0.1:${(this.#server.address() as { port: number }).port}`
  }

  get routes(): string[] {
    return this.asked.map(({ route }) => route.replace('POST ', ''))
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

const endpoints: WorkerEndpoint[] = [0, 1, 2, 3].map((rank) => ({
  rank,
  deviceUuid: `GPU-${rank}`,
  address: `ipc://@worker-${rank}`,
}))
const ok = { body: { message: 'done', status: 'ok' } }
const never = new AbortController().signal

describe('an update of SGLang', () => {
  let peer: Peer
  let url: string
  beforeEach(async () => {
    peer = new Peer()
    url = await peer.listen()
    peer.answers = {
      'GET /ping': { body: null },
      'POST /pause_generation': ok,
      'POST /continue_generation': ok,
      'POST /flush_cache': ok,
      'POST /update_weights_from_ipc': { body: { success: true, message: 'Succeeded to update model weights.' } },
      'GET /model_info': { body: { weight_version: 'step-1' } },
      'GET /server_info': { body: { hicache_storage_backend: null, version: '0.5.23' } },
    }
  })
  afterEach(() => peer.close())

  const update = async (more: Partial<SglangOptions> = {}, start: Partial<EngineStart> = {}) => {
    const engine = sglang({ url, parallelSize: 2, ...more })
    const call = await engine.start({
      rank: 2,
      endpoints,
      token: 't',
      version: 'step-1',
      timeoutMs: 5000,
      signal: never,
      ...start,
    })
    return call.finished
  }

  it('is one call a server, by its first rank, around which requests are kept off', async () => {
    for (const rank of [1, 3])
      expect(
        await sglang({ url, parallelSize: 2 }).start({ rank, endpoints, token: 't', timeoutMs: 1, signal: never }),
      ).toEqual({})
    await update({ apiKey: 'key' })
    expect(peer.routes).toEqual([
      ...['/pause_generation', '/update_weights_from_ipc', 'GET /model_info', '/flush_cache', 'GET /server_info'],
      '/continue_generation',
    ])
    expect(peer.asked[0]!.body).toEqual({ mode: 'retract' })
    expect(peer.asked[1]).toMatchObject({
      body: {
        zmq_handles: { 'GPU-2': 'ipc://@worker-2', 'GPU-3': 'ipc://@worker-3' },
        flush_cache: false,
        weight_version: 'step-1',
      },
      authorization: 'Bearer key',
    })
  })

  it('without a pause flushes the cache as part of the update, and in place not at all', async () => {
    await update({ pause: 'none' })
    expect(peer.routes).toEqual(['/update_weights_from_ipc', 'GET /model_info', 'GET /server_info'])
    expect(peer.asked[0]!.body).toMatchObject({ flush_cache: true })
    peer.asked.length = 0
    await update({ pause: 'in_place' })
    expect(peer.routes).not.toContain('/flush_cache')
  })

  it.for(
    (['retract', 'none'] as const).flatMap((pause) =>
      (
        [
          ['GET /server_info', 'POST /hicache/storage-backend/clear'],
          ['GET /get_server_info', 'POST /clear_hicache_storage_backend'],
        ] as const
      ).map((routes) => ({ pause, routes })),
    ),
  )('drops what HiCache keeps in a storage, by $routes, pause $pause', async ({ pause, routes: [info, clear] }) => {
    delete peer.answers['GET /server_info']
    peer.answers[info] = { body: { hicache_storage_backend: 'file' } }
    peer.answers[clear] = ok
    await update({ pause })
    const asked = peer.asked.map(({ route }) => route)
    expect(asked.filter((route) => route === clear)).toEqual([clear])
    if (pause !== 'none') expect(asked.indexOf(clear)).toBeLessThan(asked.indexOf('POST /continue_generation'))

    peer.answers[clear] = { status: 400, body: 'Hierarchical cache is busy.' }
    peer.asked.length = 0
    await expect(update({ pause })).rejects.toMatchObject({
      code: 'ENGINE_WORKER_ERROR',
      message: expect.stringMatching(/storage "file".*busy/) as string,
    })
    expect(peer.routes).not.toContain('/continue_generation')
  })

  it.for(['checkpoint-engine', 'ckpt'] as const)(
    'leaves the server paused where it keeps the cache of the old weights, protocol %s',
    async (protocol) => {
      const status = { version: 'step-1', dirty: false }
      peer.answers['POST /update_weights_from_ipc'] = { body: { success: true, message: JSON.stringify(status) } }
      peer.answers['POST /flush_cache'] = { status: 400, body: 'requests are running' }
      await expect(update({ protocol, engineKey: 'a key of this test' })).rejects.toMatchObject({ code: 'ENGINE_WORKER_ERROR' })
      expect(peer.routes).not.toContain('/continue_generation')
    },
  )

  it.each([
    ['success: false', { status: 400, body: { success: false, message: 'no such parameter' } }, 'no such parameter'],
    ['success: false with status 200', { body: { success: false, message: 'no such parameter' } }, 'no such parameter'],
    ['a crash', { status: 500, body: 'Internal Server Error' }, '500'],
  ])('that ends with %s fails with its words, and leaves the server paused', async (_, answer, words) => {
    peer.answers['POST /update_weights_from_ipc'] = answer
    await expect(update()).rejects.toMatchObject({
      code: 'ENGINE_WORKER_ERROR',
      message: expect.stringContaining(words) as string,
    })
    expect(peer.routes).not.toContain('/continue_generation')
  })

  it('is not believed where the server then says that it serves another version', async () => {
    peer.answers['GET /model_info'] = { body: { weight_version: 'default' } }
    await expect(update()).rejects.toMatchObject({
      code: 'ENGINE_WORKER_ERROR',
      message: expect.stringContaining('reports version default, not step-1') as string,
    })
  })

  it('with our plug-in asks the workers too, and lets requests on after a failure that left them whole', async () => {
    let state = { version: 'step-1', dirty: false }
    let message = 'ckpt: serving step-1'
    peer.answers['POST /update_weights_from_ipc'] = (body) => {
      const { zmq_handles: handles } = body as { zmq_handles: Record<string, string> }
      if (!('ckpt-status' in handles)) return { body: { success: message !== '', message } }
      return { body: { success: true, message: JSON.stringify(state) } }
    }
    await update({ protocol: 'ckpt', engineKey: 'a key of this test' })
    const [, call] = peer.asked
    expect(JSON.parse((call!.body as { zmq_handles: { ckpt: string } }).zmq_handles.ckpt)).toEqual({
      endpoints: endpoints.slice(2),
      token: 't',
      timeoutMs: 5000,
      key: 'a key of this test',
    })
    expect(peer.routes.at(-1)).toBe('/continue_generation')

    state = { version: 'step-0', dirty: false }
    await expect(update({ protocol: 'ckpt' })).rejects.toMatchObject({ message: expect.stringContaining('step-0') as string })
    message = ''
    peer.asked.length = 0
    await expect(update({ protocol: 'ckpt' })).rejects.toMatchObject({ code: 'ENGINE_WORKER_ERROR' })
    expect(peer.routes.at(-1)).toBe('/continue_generation')
    state = { version: 'step-0', dirty: true }
    peer.asked.length = 0
    await expect(update({ protocol: 'ckpt' })).rejects.toMatchObject({ code: 'ENGINE_WORKER_ERROR' })
    expect(peer.routes).not.toContain('/continue_generation')
  })

  it('tells apart who is refused, who breaks off, who is late and who is not there', async () => {
    peer.answers['POST /pause_generation'] = { status: 401, body: { error: 'Unauthorized' } }
    await expect(update()).rejects.toMatchObject({ code: 'ENGINE_UNAUTHORIZED' })
    peer.answers['POST /update_weights_from_ipc'] = { body: 'nonsense' }
    await expect(update({ pause: 'none' })).rejects.toMatchObject({ code: 'ENGINE_PROTOCOL' })
    const silent = createServer(() => undefined)
    const breaking = createServer((request) => request.socket.destroy())
    const waiting = createServer(() => undefined)
    const at = async (server: Server) => {
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
      return `http://127.0.0.1:${(server.address() as { port: number }).port}`
    }
    try {
      await expect(update({ url: await at(silent) }, { timeoutMs: 200 })).rejects.toMatchObject({ code: 'TIMEOUT' })
      await expect(update({ url: await at(breaking) })).rejects.toMatchObject({ code: 'ENGINE_WORKER_LOST' })
      const abort = new AbortController()
      const aborted = update({ url: await at(waiting) }, { signal: abort.signal })
      abort.abort(new Error('stop'))
      await expect(aborted).rejects.toMatchObject({ code: 'ABORTED' })
    } finally {
      for (const server of [silent, breaking, waiting]) {
        server.closeAllConnections()
        server.close()
      }
    }
    await expect(update({ url: 'http://127.0.0.1:1' })).rejects.toMatchObject({ code: 'ENGINE_UNREACHABLE' })
  })

  it('waits until the server listens, before its warm-up too', async () => {
    const engine = sglang({ url, parallelSize: 1 })
    const ready = (timeoutMs = 2000) => engine.ready({ rank: 0, timeoutMs, signal: never })
    await ready()
    peer.answers['GET /ping'] = { status: 503, body: null }
    await ready()
    peer.answers['GET /ping'] = { status: 404, body: null }
    await expect(ready(300)).rejects.toMatchObject({ code: 'ENGINE_UNREACHABLE', fields: { rank: 0 } })
  })

  it('refuses options that make no sense', async () => {
    const invalid = (field: string) => expect.objectContaining({ code: 'INVALID_ARGUMENT', fields: { field } }) as Error
    expect(() => sglang({ url, parallelSize: 0 })).toThrow(invalid('parallelSize'))
    expect(() => sglang({ url: 'localhost:1', parallelSize: 1 })).toThrow(invalid('url'))
    await expect(async () => update({ parallelSize: 3 })).rejects.toMatchObject({ fields: { field: 'parallelSize' } })
  })
})
