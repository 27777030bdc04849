import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, request as httpRequest } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeFile } from '@ckpt/safetensors'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { controlEngine } from '@ckpt/worker-link'
import { ParameterServer } from '@ckpt/core'
import { engineTarget } from './engine-targets.ts'
import type { HttpOptions } from './options.ts'
import { serveHttp, type HttpServer } from './serve.ts'

const TOKEN = 'a-token-that-is-long-enough'
const JSON_TYPE = { 'content-type': 'application/json' }

describe('the HTTP API of one rank', () => {
  let server: ParameterServer
  let directory: string
  let file: string
  const open: HttpServer[] = []
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'ckpt-http-'))
    mkdirSync(join(directory, 'root'))
    file = join(directory, 'root', 'a.safetensors')
    await writeFile(file, [{ name: 'w', dtype: 'F32', shape: [2, 2], data: new Uint8Array(16).fill(7) }])
    server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 1000 })
  })
  afterEach(async () => {
    for (const one of open.splice(0)) await one.close()
    await server.close()
    rmSync(directory, { recursive: true, force: true })
  })

  const serve = async (options: HttpOptions = {}) => {
    const http = await serveHttp(server, options)
    open.push(http)
    const call = async (method: string, path: string, body?: unknown, headers: Record<string, string> = {}) => {
      const response = await fetch(`${http.address}${path}`, {
        method,
        headers: { ...(body !== undefined && JSON_TYPE), ...headers },
        ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      })
      const text = await response.text()
      return { status: response.status, body: text === '' ? undefined : (JSON.parse(text) as Record<string, unknown>) }
    }
    return { http, call }
  }
  const files = () => ({ files: [file] })

  it('serves numbers and readiness to those who have the token', async () => {
    const { http, call } = await serve({ token: TOKEN })
    expect([(await call('GET', '/metrics')).status, (await call('GET', '/v1/readyz')).status]).toEqual([401, 401])
    const authorization = { authorization: `Bearer ${TOKEN}` }
    const metrics = await fetch(`${http.address}/metrics`, { headers: authorization })
    expect(metrics.headers.get('content-type')).toContain('version=0.0.4')
    expect(await metrics.text()).toContain('ckpt_ready{rank="0"} 1')
    expect(await call('GET', '/v1/readyz', undefined, authorization)).toMatchObject({
      status: 200,
      body: { state: 'ready', dirty: [] },
    })
  })

  it('registers, gathers and unregisters, and says what is wrong', async () => {
    const { call } = await serve()
    expect(await call('GET', '/v1/healthz')).toEqual({ status: 200, body: undefined })
    expect(await call('POST', '/v1/checkpoints/step%2F1/files', files())).toMatchObject({ status: 200, body: { files: 1 } })
    expect(await call('POST', '/v1/checkpoints/step%2F1/gather-metas')).toMatchObject({
      status: 200,
      body: { tensors: 1, bytes: 16, ranks: 1 },
    })
    expect(await call('POST', '/v1/checkpoints/step%2F1/files', files())).toMatchObject({
      status: 409,
      body: { error: { code: 'CHECKPOINT_EXISTS', retryable: false } },
    })
    expect(await call('DELETE', '/v1/checkpoints/step%2F1')).toMatchObject({ status: 200, body: { unregistered: true } })
    expect(await call('DELETE', '/v1/checkpoints/step%2F1')).toMatchObject({ status: 200, body: { unregistered: false } })
    expect(await call('POST', '/v1/checkpoints/none/update', {})).toMatchObject({
      status: 404,
      body: { error: { code: 'CHECKPOINT_UNKNOWN' } },
    })
    expect(await call('POST', '/v1/checkpoints/a/update', { ranks: [0] })).toMatchObject({
      status: 501,
      body: { error: { code: 'UNSUPPORTED', fields: { field: 'ranks' } } },
    })
    expect((await call('GET', '/v1/nothing')).status).toBe(404)
  })

  it('names the field of a malformed body as FastAPI does, and changes nothing', async () => {
    const { call } = await serve({ bodyLimit: 1000 })
    for (const [body, loc] of [
      [{}, ['body', 'files']],
      [{ files: 'a' }, ['body', 'files']],
      [{ files: [1] }, ['body', 'files', '0']],
    ] as const) {
      expect(await call('POST', '/v1/checkpoints/a/files', body)).toMatchObject({ status: 422, body: { detail: [{ loc }] } })
    }
    for (const [body, field] of [
      [{ ranks: [-1] }, 'ranks'],
      [{ timeout: 0 }, 'timeout'],
      [{ update_url: 'no url' }, 'update_url'],
    ] as const) {
      const answer = await call('POST', '/v1/checkpoints/a/update', body)
      expect(answer).toMatchObject({ status: 422, body: { detail: [{ loc: expect.arrayContaining([field]) as unknown }] } })
    }
    expect((await call('POST', '/v1/checkpoints/a/files', '{')).status).toBe(400)
    expect((await call('POST', '/v1/checkpoints/a/files', 'files=a', { 'content-type': 'text/xml' })).status).toBe(415)
    expect((await call('POST', '/v1/checkpoints/a/files', { files: ['x'.repeat(2000)] })).status).toBe(413)
    expect(() => server.getMetas('a')).toThrow()
  })

  it('reads nothing outside its root, by no path and through no link', async () => {
    const root = join(directory, 'root')
    const outside = join(directory, 'outside.safetensors')
    writeFileSync(outside, 'secret')
    symlinkSync(outside, join(root, 'link.safetensors'))
    const { call } = await serve({ root })
    const register = (path: string) => call('POST', '/v1/checkpoints/a/files', { files: [path] })
    for (const path of [
      outside,
      '../outside.safetensors',
      join(root, '../outside.safetensors'),
      'link.safetensors',
      '..',
      '/etc/passwd',
    ]) {
      expect(await register(path), path).toMatchObject({ status: 400, body: { error: { code: 'INVALID_ARGUMENT' } } })
    }
    expect(await register('a\0b')).toMatchObject({ status: 400 })
    expect(await register('none.safetensors')).toMatchObject({
      status: 422,
      body: { error: { code: 'CHECKPOINT_UNREADABLE' } },
    })
    expect(await register('a.safetensors')).toMatchObject({ status: 200 })
    expect(await call('POST', '/v1/checkpoints/b/files', { files: [file] })).toMatchObject({ status: 200 })
  })

  it('takes relative paths with a root only', async () => {
    const { call } = await serve()
    expect(await call('POST', '/v1/checkpoints/a/files', { files: ['a.safetensors'] })).toMatchObject({ status: 400 })
  })

  it('needs a token and a root to listen where other machines can reach it', async () => {
    for (const [options, field] of [
      [{ host: '0.0.0.0' }, 'token'],
      [{ host: '::', root: '/' }, 'token'],
      [{ host: '192.168.0.1', token: TOKEN }, 'root'],
      [{ token: 'short' }, 'token'],
    ] as const) {
      await expect(serveHttp(server, options)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', fields: { field } })
    }
  })

  it('lets nobody in without the token but to the health check', async () => {
    const { http, call } = await serve({ token: TOKEN })
    expect((await call('GET', '/v1/healthz')).status).toBe(200)
    for (const authorization of ['', 'Bearer wrong', `Basic ${TOKEN}`, TOKEN]) {
      const response = await fetch(`${http.address}/openapi.json`, { headers: { authorization } })
      expect(response.status).toBe(401)
      expect(response.headers.get('www-authenticate')).toBe('Bearer')
      expect((await call('POST', '/v1/checkpoints/a/files', files(), { authorization })).status).toBe(401)
      expect((await call('GET', '/no-such-route', undefined, { authorization })).status).toBe(401)
    }
    const authorization = `Bearer ${TOKEN}`
    expect((await call('POST', '/v1/checkpoints/a/files', files(), { authorization })).status).toBe(200)
  })

  it('answers no foreign web page where it has no token', async () => {
    const { http, call } = await serve()
    expect((await call('POST', '/v1/checkpoints/a/gather-metas', undefined, { origin: 'https://evil.example' })).status).toBe(
      403,
    )
    const own = http.address
    expect((await call('GET', '/openapi.json', undefined, { origin: own })).status).toBe(200)
    const rebound = await new Promise<number | undefined>((resolve, reject) =>
      httpRequest(`${http.address}/openapi.json`, { headers: { host: 'evil.example' } }, (response) => {
        response.resume()
        resolve(response.statusCode)
      })
        .on('error', reject)
        .end(),
    )
    expect(rebound).toBe(403)
  })

  it('answers the pages of no origin but its own, and of no site but its own, with a token too', async () => {
    for (const token of [undefined, TOKEN]) {
      const { http, call } = await serve(token === undefined ? {} : { token })
      const { port } = new URL(http.address)
      const authorization: Record<string, string> = token === undefined ? {} : { authorization: `Bearer ${token}` }
      const from = async (headers: Record<string, string>) =>
        (await call('GET', '/v1/readyz', undefined, { ...authorization, ...headers })).status
      // Pages of other servers on this machine also count as foreign.
      for (const origin of [
        'http://localhost:3000',
        `http://localhost:${port}`,
        'http://127.0.0.1',
        `http://127.0.0.1:${Number(port) + 1}`,
        `http://127.0.0.1:${port}.evil.example`,
        `http://evil.example@127.0.0.1:${port}`,
        `file://127.0.0.1:${port}`,
        'null',
        '',
      ]) {
        expect(await from({ origin }), origin).toBe(403)
      }
      for (const site of ['cross-site', 'same-site', 'else']) expect(await from({ 'sec-fetch-site': site }), site).toBe(403)
      expect(await from({ origin: `http://127.0.0.1:${port}`, 'sec-fetch-site': 'same-origin' })).toBe(200)
      expect(await from({ 'sec-fetch-site': 'none' })).toBe(200)
    }
  })

  it('calls engines on this machine, on hosts that it was told, and by sockets beneath directories that it was told', async () => {
    const engine = createServer((_, response) => response.writeHead(418).end('an engine'))
    const sockets = join(directory, 'sockets')
    mkdirSync(sockets)
    const socket = join(sockets, 'engine.sock')
    await new Promise<void>((resolve) => engine.listen(socket, resolve))
    const elsewhere = join(directory, 'elsewhere.sock')
    const private_ = createServer((_, response) => response.end('a service that only this machine reaches'))
    await new Promise<void>((resolve) => private_.listen(elsewhere, resolve))
    symlinkSync(elsewhere, join(sockets, 'link.sock'))
    open.push({
      address: '',
      close: () => Promise.all([engine, private_].map((one) => new Promise((r) => one.close(r)))),
    } as never)
    const { call } = await serve({ engineHosts: ['engine.example', 'other.example:8000'], engineSockets: [sockets] })
    await call('POST', '/v1/checkpoints/a/files', files())
    await call('POST', '/v1/checkpoints/a/gather-metas')
    const update = (update_url: string, uds?: string) =>
      call('POST', '/v1/checkpoints/a/update', { update_url, timeout: 1, ...(uds && { uds }) })
    for (const url of [
      'http://169.254.169.254/latest/meta-data',
      'http://evil.example/',
      'http://127.0.0.1.evil.example/',
      'http://engine.example.evil.example/',
      'http://other.example/',
      'http://0.0.0.0/',
      'http://[::ffff:10.0.0.1]/',
      'http://user:password@127.0.0.1/',
      'file:///etc/passwd',
      'ftp://127.0.0.1/',
    ]) {
      expect(await update(url), url).toMatchObject({
        status: 400,
        body: { error: { code: 'INVALID_ARGUMENT', fields: { field: 'update_url' } } },
      })
    }
    for (const uds of [
      elsewhere,
      join(sockets, '../elsewhere.sock'),
      join(sockets, 'link.sock'),
      join(sockets, 'none.sock'),
      sockets,
      '/run/docker.sock',
      'engine.sock',
      'a\0b',
    ]) {
      expect(await update('http://engine/', uds), uds).toMatchObject({
        status: 400,
        body: { error: { code: 'INVALID_ARGUMENT', fields: { field: 'uds' } } },
      })
    }
    // Accepted by the check; this rank has no GPU, which checkpoint-engine's protocol needs.
    expect((await update('http://engine/collective_rpc', socket)).status).toBe(501)
    for (const url of [
      'http://127.0.0.1:9/',
      'http://localhost:9/',
      'http://2130706433:9/',
      'http://ENGINE.example/',
      'http://other.example:8000/',
    ]) {
      expect((await update(url)).status, url).toBe(501)
    }
  })

  it('takes a socket beside its own where it listens on one, and none where it was told none', async () => {
    const socketPath = join(directory, 'api.sock')
    expect(engineTarget({ update_url: 'http://e/', uds: file }, { socketPath: join(directory, 'root', 'api.sock') }).uds).toBe(
      realpathSync(file),
    )
    expect(() => engineTarget({ update_url: 'http://e/', uds: '/tmp/x.sock' }, {})).toThrow(
      /no directory of sockets is allowed/,
    )
    expect(() => engineTarget({ update_url: 'http://e/', uds: '/etc/passwd' }, { socketPath })).toThrow(/is not below/)
  })

  it('describes itself, and takes further routes', async () => {
    const { call } = await serve({
      plugins: [(app, ps) => void app.get('/extra', () => ({ rank: ps.rank }))],
    })
    const { body } = await call('GET', '/openapi.json')
    expect(body).toMatchObject({
      openapi: expect.stringMatching(/^3\./) as string,
      paths: {
        '/v1/healthz': { get: {} },
        '/v1/checkpoints/{name}/files': { post: { requestBody: {} } },
        '/v1/checkpoints/{name}': { delete: {} },
        '/v1/checkpoints/{name}/gather-metas': { post: {} },
        '/v1/checkpoints/{name}/update': { post: { requestBody: {} } },
      },
    })
    expect(JSON.stringify(body)).toContain('inference_group_ranks')
    expect(await call('GET', '/extra')).toEqual({ status: 200, body: { rank: 0 } })
  })

  it('listens on a unix socket that is the user’s alone, and not where another one does', async () => {
    const socketPath = join(directory, 'api.sock')
    const dead = createServer().listen(socketPath)
    await new Promise((resolve) => dead.once('listening', resolve))
    await expect(serveHttp(server, { socketPath })).rejects.toMatchObject({ fields: { field: 'socketPath' } })
    await new Promise((resolve) => dead.close(resolve))
    const { http } = await serve({ socketPath })
    const status = await new Promise<number | undefined>((resolve, reject) =>
      httpRequest({ socketPath, path: '/v1/healthz' }, (response) => (response.resume(), resolve(response.statusCode)))
        .on('error', reject)
        .end(),
    )
    expect(status).toBe(200)
    await http.close()
  })

  it('answers an update that ends because the server closes', async () => {
    const { call } = await serve({ engine: () => controlEngine({ socket: join(directory, 'no-engine.sock') }) })
    await call('POST', '/v1/checkpoints/a/files', files())
    const update = call('POST', '/v1/checkpoints/a/update', { timeout: 60 })
    await new Promise((resolve) => setTimeout(resolve, 200))
    await server.close()
    expect(await update).toMatchObject({ status: 503, body: { error: { code: 'ABORTED', retryable: true } } })
  })
})
