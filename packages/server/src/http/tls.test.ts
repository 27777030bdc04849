import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { get as httpsGet, type RequestOptions } from 'node:https'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TLSSocket } from 'node:tls'
import { ParameterServer } from '@ckpt/core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { serveHttp } from './serve.ts'
import { watchTls } from './tls-files.ts'

const TOKEN = 'a-token-that-is-long-enough'
const headers = { authorization: `Bearer ${TOKEN}` }

/** Makes a certificate for 127.0.0.1, signed by itself; undefined if there is no openssl. */
function certificate(directory: string, name: string): { cert: string; key: string } | undefined {
  const [cert, key] = [join(directory, `${name}.crt`), join(directory, `${name}.key`)]
  const made = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2']
  const subject = ['-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', cert]
  try {
    execFileSync('openssl', [...made, ...subject], { stdio: 'ignore' })
    return { cert, key }
  } catch {
    return undefined
  }
}

describe('the HTTP API with TLS', () => {
  let directory: string
  let first: { cert: string; key: string } | undefined
  let second: typeof first
  let server: ParameterServer | undefined
  const ended: (() => Promise<void>)[] = []
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'ckpt-tls-'))
    first = certificate(directory, 'first')
    second = certificate(directory, 'second')
  })
  afterAll(() => rmSync(directory, { recursive: true, force: true }))
  beforeEach(async ({ skip }) => {
    if (first === undefined || second === undefined) skip('openssl is missing; apt-get install openssl')
    server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 1000 })
  })
  afterEach(async () => {
    for (const end of ended.splice(0)) await end()
    await server?.close()
  })

  const serve = async (tls: { cert: string; key: string }, maxConnections = 64) => {
    const http = await serveHttp(server!, { tls, token: TOKEN, maxConnections })
    ended.push(() => http.close())
    return http.address
  }
  const get = (url: string, options: RequestOptions) =>
    new Promise<{ status: number; subject: string }>((resolve, reject) => {
      httpsGet(url, { ...options, agent: false }, (response) => {
        const { socket } = response as unknown as { socket: Pick<TLSSocket, 'getPeerCertificate'> }
        const subject = socket.getPeerCertificate().subject.CN as string
        response.resume().on('end', () => resolve({ status: response.statusCode!, subject }))
      }).on('error', reject)
    })

  it('answers over HTTPS with the given certificate, and nobody else', async () => {
    const address = await serve(first!)
    expect(address).toMatch(/^https:\/\/127\.0\.0\.1:\d+$/)
    const ca = readFileSync(first!.cert)
    expect(await get(`${address}/v1/readyz`, { ca, headers })).toEqual({ status: 200, subject: 'first' })
    expect((await get(`${address}/v1/readyz`, { ca })).status).toBe(401)
    await expect(get(`${address}/v1/readyz`, { ca: readFileSync(second!.cert), headers })).rejects.toThrow(/self-signed/)
    await expect(fetch(`${address.replace('https', 'http')}/v1/healthz`)).rejects.toThrow()
    await expect(get(`${address}/v1/healthz`, { ca, maxVersion: 'TLSv1.1', minVersion: 'TLSv1' })).rejects.toThrow()
  })

  it('is not held up by connections that never finish their handshake', async () => {
    const address = await serve(first!, 16)
    const silent = Array.from({ length: 50 }, () =>
      connect(Number(new URL(address).port), '127.0.0.1').on('error', () => undefined),
    )
    let closed = 0
    for (const socket of silent) socket.on('close', () => closed++)
    await expect.poll(() => closed, { timeout: 20_000 }).toBe(34)
    expect((await get(`${address}/v1/healthz`, { ca: readFileSync(first!.cert) })).status).toBe(200)
    for (const socket of silent) socket.destroy()
  })

  it('takes a replaced certificate for new connections, once the key belongs to it', async () => {
    const files = { cert: join(directory, 'live.crt'), key: join(directory, 'live.key') }
    copyFileSync(first!.cert, files.cert)
    copyFileSync(first!.key, files.key)
    let renewals = 0
    const stop = watchTls(files, () => renewals++, 20)
    ended.push(() => Promise.resolve(stop()))
    copyFileSync(second!.cert, files.cert)
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(renewals).toBe(0)
    copyFileSync(second!.key, files.key)
    await expect.poll(() => renewals, { timeout: 20_000 }).toBe(1)
  })

  it('refuses files that are missing or do not belong together, and a unix socket', async () => {
    const mixed = { cert: first!.cert, key: second!.key }
    await expect(serve(mixed)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', fields: { field: 'tls' } })
    const missing = join(directory, 'missing.key')
    await expect(serve({ cert: first!.cert, key: missing })).rejects.toThrow(/the TLS key .*missing.key cannot be read: ENOENT/)
    writeFileSync(missing, 'not a key')
    await expect(serve({ cert: first!.cert, key: missing })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    const socketPath = join(directory, 'api.sock')
    await expect(serveHttp(server!, { tls: first!, socketPath })).rejects.toThrow(/unix socket/)
  })
})
