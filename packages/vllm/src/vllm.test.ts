import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { CkptError, type EngineStart, type ErrorCode, type WorkerEndpoint } from '@ckpt/contract'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { HttpEngine, healthy, type Reply, type Seen } from './fake-engine.fixture.ts'
import { vllm, type VllmEvent, type VllmOptions } from './index.ts'

const endpoints = (...ranks: number[]): WorkerEndpoint[] =>
  ranks.map((rank) => ({ rank, deviceUuid: `GPU-${rank}`, address: `ipc:///run/${rank}.sock` }))

const start = (rank: number, all: WorkerEndpoint[], more: Partial<EngineStart> = {}): EngineStart => ({
  rank,
  endpoints: all,
  token: 'secret',
  timeoutMs: 2000,
  signal: new AbortController().signal,
  ...more,
})

async function codeOf(work: () => Promise<unknown>): Promise<ErrorCode> {
  try {
    await work()
  } catch (error) {
    if (CkptError.is(error)) return error.code
    throw error
  }
  throw new Error('nothing failed')
}

/** One update through the adapter, until the engine's call ends. */
async function update(options: Partial<VllmOptions> & { url?: string }, more: Partial<EngineStart> = {}): Promise<void> {
  const call = await vllm({ parallelSize: 1, ...options }).start(start(0, endpoints(0), more))
  await call.finished
}

describe('an update', () => {
  it('pauses, calls the workers, drops the prefix cache and resumes, in this order', async () => {
    await using engine = await HttpEngine.start(healthy())
    await update({
      url: engine.url,
      apiKey: 'k',
      headers: { 'x-more': '1' },
      engineKey: 'a key of this test',
      drafter: 'load',
      complete: false,
    })
    expect(engine.asked()).toEqual([
      'POST /pause?mode=keep',
      'GET /is_paused',
      'POST /collective_rpc',
      'POST /reset_prefix_cache?reset_running_requests=true&reset_external=true',
      'POST /resume',
    ])
    expect(engine.seen[2]).toMatchObject({
      headers: { authorization: 'Bearer k', 'x-more': '1' },
      body: {
        method: 'ckpt_update',
        args: [
          {
            endpoints: endpoints(0),
            token: 'secret',
            timeoutMs: 2000,
            key: 'a key of this test',
            drafter: 'load',
            complete: false,
          },
        ],
      },
    })
  })

  it('is called once an instance, by its first rank, for that instance’s workers', async () => {
    await using engine = await HttpEngine.start(healthy())
    const all = endpoints(8, 9, 12, 13)
    const adapter = vllm({ url: () => engine.url, parallelSize: 2, pause: false, resetPrefixCache: false })
    for (const rank of [8, 9, 12, 13, 7]) {
      const call = await adapter.start(start(rank, all))
      expect(call.finished === undefined).toBe(![8, 12].includes(rank))
      await call.finished
    }
    const called = engine.seen.map(({ body }) => (body as { args: { endpoints: WorkerEndpoint[] }[] }).args[0]!.endpoints)
    expect(called.map((of) => of.map(({ rank }) => rank))).toEqual([
      [8, 9],
      [12, 13],
    ])
    expect(await codeOf(() => adapter.start(start(8, endpoints(8, 9, 12))))).toBe('INVALID_ARGUMENT')
  })

  it.for(['keep', 'wait'] as const)('waits in mode %s for the pause, and resumes after its answer', async (pause) => {
    const answers = healthy()
    let answer: () => void = () => undefined
    let asked = 0
    await using engine = await HttpEngine.start(async (seen) => {
      if (seen.path.startsWith('/is_paused')) return { body: { is_paused: ++asked > 2 } }
      if (seen.path.startsWith('/pause')) await new Promise<void>((resolve) => (answer = resolve))
      return answers(seen)
    })
    const updating = update({ url: engine.url, pause })
    const calls = () => engine.asked().filter((one) => one === 'POST /collective_rpc').length
    // The scheduler has stopped, and the answer is still to come.
    if (pause === 'keep') await vi.waitFor(() => expect(calls()).toBe(1))
    await vi.waitFor(() => expect(engine.asked().join()).toContain('/pause'))
    await sleep(50)
    expect(calls()).toBe(pause === 'keep' ? 1 : 0)
    expect(engine.asked()).not.toContain('POST /resume')
    answer()
    await updating
    expect(engine.asked().at(-1)).toBe('POST /resume')
    expect(asked).toBe(pause === 'keep' ? 3 : 0)
  })

  it('that is aborted before the pause is answered resumes an engine that is whole, after that answer', async () => {
    const answers = healthy({ ckpt_status: () => ({ body: { results: [{ version: 'a', dirty: false }] } }) })
    const stop = new AbortController()
    await using engine = await HttpEngine.start(async (seen) => {
      if (seen.path.startsWith('/pause')) await sleep(300)
      const { method } = (seen.body ?? {}) as { method?: string }
      if (method !== 'ckpt_update') return answers(seen)
      stop.abort(new CkptError('ABORTED', 'of this test'))
      return { status: 500, body: { error: 'the rank aborted' } }
    })
    const adapter = vllm({ url: engine.url, parallelSize: 1, engineKey: false })
    const call = await adapter.start(start(0, endpoints(0), { signal: stop.signal }))
    await expect(call.finished).rejects.toThrow('the rank aborted')
    expect(engine.asked().at(-1)).toBe('POST /resume')
  })

  it('is prepared without a pause, by one call of an instance’s first rank', async () => {
    await using engine = await HttpEngine.start(healthy())
    const adapter = vllm({ url: engine.url, parallelSize: 2, engineKey: 'a key of this test' })
    for (const rank of [0, 1]) await (await adapter.prepare!(start(rank, endpoints(0, 1)))).finished
    expect(engine.asked()).toEqual(['POST /collective_rpc'])
    expect(engine.seen[0]!.body).toMatchObject({
      method: 'ckpt_prepare',
      args: [{ key: 'a key of this test', token: 'secret' }],
    })
    for (const via of ['checkpoint-engine', 'weight-transfer'] as const) {
      expect(vllm({ url: engine.url, parallelSize: 2, via }).prepare).toBeUndefined()
    }
  })

  it('tells what the version lacks and goes on without', async () => {
    const answers = healthy()
    await using engine = await HttpEngine.start((seen) =>
      /pause|reset/.test(seen.path) ? { status: 404, body: { detail: 'Not Found' } } : answers(seen),
    )
    const events: VllmEvent[] = []
    await update({ url: engine.url, onEvent: (event) => events.push(event) })
    expect(events).toMatchObject([
      { kind: 'unsupported', feature: 'pause' },
      { kind: 'unsupported', feature: 'prefix cache reset' },
    ])
    expect(engine.asked()).not.toContain('POST /resume')
  })

  it('speaks to checkpoint-engine’s stock worker, and through vLLM’s own weight transfer', async () => {
    await using engine = await HttpEngine.start((seen) =>
      seen.path === '/collective_rpc' ? { body: { results: [null] } } : { body: {} },
    )
    await update({ url: engine.url, via: 'checkpoint-engine', pause: false, resetPrefixCache: false })
    expect(engine.seen[0]!.body).toEqual({ method: 'update_weights_from_ipc', args: [{ 'GPU-0': 'ipc:///run/0.sock' }] })
    await update({ url: engine.url, via: 'weight-transfer', pause: false, resetPrefixCache: false })
    expect(engine.asked().slice(1)).toEqual([
      'POST /init_weight_transfer_engine',
      'POST /start_weight_update',
      'POST /update_weights',
      'POST /finish_weight_update',
    ])
    expect(engine.seen[3]!.body).toMatchObject({ update_info: { call: { token: 'secret', endpoints: endpoints(0) } } })
  })
})

describe('an update that fails', () => {
  const dead = 'EngineCore encountered an issue. See stack trace (above) for the root cause.'
  it.for<[string, Reply, ErrorCode]>([
    [
      'a worker that raised',
      { status: 500, body: { error: { message: 'Worker failed with error x' } } },
      'ENGINE_WORKER_ERROR',
    ],
    ['a dead core', { status: 500, body: { error: { message: dead } } }, 'ENGINE_WORKER_LOST'],
    ['a connection that breaks', 'hang up', 'ENGINE_WORKER_LOST'],
    ['no development endpoints', { status: 404, body: { detail: 'Not Found' } }, 'UNSUPPORTED'],
    [
      'no extension',
      { status: 500, body: { error: { message: "'Worker' object has no attribute 'ckpt_update'" } } },
      'UNSUPPORTED',
    ],
    ['a wrong API key', { status: 401, body: { error: 'Unauthorized' } }, 'ENGINE_UNAUTHORIZED'],
    ['too much to do', { status: 429 }, 'ENGINE_BUSY'],
    ['a bad request', { status: 400, body: { detail: 'JSON decode error' } }, 'ENGINE_PROTOCOL'],
    ['an answer of another kind', { body: { results: 'none' } }, 'ENGINE_PROTOCOL'],
    ['workers of another number', { body: { results: [{}, {}] } }, 'INVALID_ARGUMENT'],
  ])('by %s says so', async ([, reply, code]) => {
    await using engine = await HttpEngine.start(healthy({ ckpt_update: () => reply }))
    expect(await codeOf(() => update({ url: engine.url }))).toBe(code)
    expect(engine.asked().at(-1)).toBe('POST /resume') // its weights are whole
  })

  it('leaves an engine paused whose weights are mixed, or that does not say', async () => {
    for (const status of [{ body: { results: [{ version: 'a', dirty: true }] } }, 'hang up'] as const) {
      const events: VllmEvent[] = []
      await using engine = await HttpEngine.start(healthy({ ckpt_update: () => ({ status: 500 }), ckpt_status: () => status }))
      expect(await codeOf(() => update({ url: engine.url, onEvent: (event) => events.push(event) }))).toBe(
        'ENGINE_WORKER_ERROR',
      )
      expect(engine.asked()).not.toContain('POST /resume')
      expect(events).toMatchObject([{ kind: 'left-paused' }])
    }
  })

  /**
   * A vLLM that caches keys and values: internally, and in an external connector; `drops` says when the engine releases them.
   */
  const caching = (
    connector: string | null | undefined,
    drops: { inside?: boolean; outside: (attempt: number) => boolean },
  ) => {
    const cached = { inside: true, outside: typeof connector === 'string' }
    let attempts = 0
    const answers = healthy({
      ckpt_status: () => ({
        body: { results: [{ version: 'a', dirty: false, ...(connector !== undefined && { connector }) }] },
      }),
    })
    const reply = (seen: Seen): Reply | Promise<Reply> => {
      if (!seen.path.startsWith('/reset_prefix_cache')) return answers(seen)
      if (drops.inside === false) return { body: { success: false } }
      cached.inside = false
      if (!seen.path.includes('reset_external=true')) return { body: { success: true } }
      const success = drops.outside(attempts++)
      if (success) cached.outside = false
      return { body: { success } }
    }
    return { cached, reply }
  }
  const never = () => false

  it.each<[string, string | null | undefined, (attempt: number) => boolean]>([
    ['inside, and what a connector keeps outside', 'LMCacheConnectorV1', () => true],
    ['outside, once what is under way has arrived', 'OffloadingConnector', (attempt) => attempt > 1],
    ['inside, where a version without a connector says that it could not drop what is outside', null, never],
  ])('drops keys and values %s, before requests go on', async (_, connector, outside) => {
    const { cached, reply } = caching(connector, { outside })
    await using engine = await HttpEngine.start((seen) => {
      if (seen.path === '/resume') expect(cached).toEqual({ inside: false, outside: false })
      return reply(seen)
    })
    const events: VllmEvent[] = []
    await update({ url: engine.url, onEvent: (event) => events.push(event) })
    expect(engine.asked().at(-1)).toBe('POST /resume')
    expect(events).toEqual([])
  })

  it('tells where nobody knows whether anything is kept outside', async () => {
    const { reply } = caching(undefined, { outside: never })
    await using engine = await HttpEngine.start(reply)
    const events: VllmEvent[] = []
    await update({ url: engine.url, onEvent: (event) => events.push(event) })
    expect(events).toMatchObject([{ kind: 'unsupported', feature: 'external cache reset' }])
  })

  it.each([
    ['prefix cache', null, { inside: false, outside: never }],
    ['MooncakeStoreConnector', 'MooncakeStoreConnector', { outside: never }],
  ])(
    'fails, and leaves the engine paused, where keys and values of the old weights are kept: %s',
    async (word, connector, drops) => {
      await using engine = await HttpEngine.start(caching(connector, drops).reply)
      const events: VllmEvent[] = []
      const failed = update({ url: engine.url, onEvent: (event) => events.push(event) })
      await expect(failed).rejects.toMatchObject({
        code: 'ENGINE_WORKER_ERROR',
        message: expect.stringContaining(word) as string,
      })
      expect(engine.asked()).not.toContain('POST /resume')
      expect(events).toMatchObject([{ kind: 'left-paused' }])
    },
  )

  it('keeps a second server away while it runs, and no longer', async () => {
    let release: (reply: Reply) => void = () => undefined
    const waiting = new Promise<Reply>((resolve) => (release = resolve))
    await using engine = await HttpEngine.start(healthy({ ckpt_update: () => waiting }))
    const first = update({ url: engine.url })
    await expect.poll(() => engine.asked()).toContain('POST /collective_rpc')
    const port = new URL(engine.url).port
    expect(await codeOf(() => update({ url: `http://localhost:${port}` }))).toBe('ENGINE_BUSY')
    release({ body: { results: [{}] } })
    await first
    await update({ url: engine.url })
  })

  it('ends a call that an abort of the update does not end', { timeout: 20_000 }, async () => {
    await using engine = await HttpEngine.start(healthy({ ckpt_update: () => 'silence' }))
    const abort = new AbortController()
    const running = codeOf(() => update({ url: engine.url }, { signal: abort.signal }))
    await expect.poll(() => engine.asked()).toContain('POST /collective_rpc')
    abort.abort(new CkptError('RANK_LOST', 'rank 1 is gone'))
    expect(await running).toBe('RANK_LOST')
  })
})

describe('waiting for the engine', () => {
  const ready = (options: Omit<VllmOptions, 'parallelSize'>, timeoutMs: number, signal = new AbortController().signal) =>
    vllm({ parallelSize: 1, ...options }).ready({ rank: 3, timeoutMs, signal })

  it('lasts until it is healthy, and tells why not before', async () => {
    let asked = 0
    await using engine = await HttpEngine.start(() => (++asked < 4 ? { status: 503 } : {}))
    const events: VllmEvent[] = []
    await ready({ url: engine.url, onEvent: (event) => events.push(event) }, 10_000)
    expect(events.map(({ kind }) => kind)).toEqual(['waiting', 'waiting', 'waiting', 'ready'])
    expect(events[0]).toMatchObject({ rank: 3, reason: expect.stringContaining('503') as string })
  })

  it('says which version is served, and no more, whatever workers say', async () => {
    const status = { version: 'a', dirty: false, connector: 'LMCacheConnectorV1', more: 1 }
    await using engine = await HttpEngine.start(healthy({ ckpt_status: () => ({ body: { results: [status, status] } }) }))
    const wait = { rank: 0, timeoutMs: 5000, signal: new AbortController().signal }
    expect(await vllm({ url: engine.url, parallelSize: 2 }).ready(wait)).toEqual({ version: 'a', dirty: false })
  })

  it('ends at its deadline, at an abort, and at once for a wrong key', async () => {
    await using silent = await HttpEngine.start(() => 'silence')
    const began = performance.now()
    expect(await codeOf(() => ready({ url: silent.url }, 400))).toBe('ENGINE_UNREACHABLE')
    expect(performance.now() - began).toBeLessThan(2000)
    const { url } = silent
    await silent[Symbol.asyncDispose]()
    expect(await codeOf(() => ready({ url }, 300))).toBe('ENGINE_UNREACHABLE')
    const controller = new AbortController()
    setTimeout(() => controller.abort(), 200)
    expect(await codeOf(() => ready({ url }, 60_000, controller.signal))).toBe('ABORTED')
    expect(await codeOf(() => ready({ url }, 60_000, AbortSignal.timeout(200)))).toBe('TIMEOUT')
    await using closed = await HttpEngine.start(() => ({ status: 401 }))
    expect(await codeOf(() => ready({ url: closed.url }, 60_000))).toBe('ENGINE_UNAUTHORIZED')
  })
})

describe('the way to the engine', () => {
  let directory: string
  beforeAll(() => (directory = mkdtempSync(join(tmpdir(), `ckpt-vllm-test-${process.pid}-`))))
  afterAll(() => rmSync(directory, { recursive: true, force: true }))

  it('may be a unix socket', async () => {
    const socketPath = join(directory, 'engine.sock')
    await using engine = await HttpEngine.start(healthy(), { socketPath })
    await update({ socketPath })
    expect(engine.asked()).toHaveLength(5)
  })

  it('may be TLS with an authority of its own, and is none to a server that it does not know', async ({ skip }) => {
    const [key, cert] = [join(directory, 'key.pem'), join(directory, 'cert.pem')]
    const subject = ['-subj', '/CN=engine', '-addext', 'subjectAltName=DNS:engine']
    try {
      const args = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-keyout', key, '-out', cert, ...subject]
      execFileSync('openssl', args, { stdio: 'pipe' })
    } catch (error) {
      skip(`openssl makes no certificate: ${String(error)}`)
    }
    const tls = { key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') }
    await using engine = await HttpEngine.start(healthy(), { tls })
    const options = { url: engine.url, tls: { ca: tls.cert, servername: 'engine' } }
    await vllm({ ...options, parallelSize: 1 }).ready({ rank: 0, timeoutMs: 5000, signal: new AbortController().signal })
    await update(options)
    expect(await codeOf(() => update({ url: engine.url }))).toBe('ENGINE_UNREACHABLE')
  })

  it('keeps a path before the engine’s own', async () => {
    await using engine = await HttpEngine.start((seen) => healthy()({ ...seen, path: seen.path.replace('/engine/0', '') }))
    await update({ url: `${engine.url}/engine/0/` })
    expect(engine.asked()[0]).toBe('POST /engine/0/pause?mode=keep')
  })

  it.for<[string, VllmOptions]>([
    ['url', { parallelSize: 1 }],
    ['url', { url: 'http://a', socketPath: '/b', parallelSize: 1 }],
    ['url', { url: 'nonsense', parallelSize: 1 }],
    ['url', { url: 'ftp://a', parallelSize: 1 }],
    ['parallelSize', { url: 'http://a', parallelSize: 0 }],
  ])('is checked: %s', ([field, options]) => {
    expect(() => vllm(options)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', fields: { field } }) as Error)
  })
})
