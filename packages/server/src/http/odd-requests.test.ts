import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { ParameterServer } from '@ckpt/core'
import { live } from './live/plugin.ts'
import { serveHttp, type HttpServer } from './serve.ts'

const TOKEN = 'a-token-that-is-long-enough'
const AUTHORISED = `authorization: Bearer ${TOKEN}\r\n`
/** A connection that stays open longer counts as not ended by the server. */
const HANGS_MS = 20_000

let server: ParameterServer
let api: HttpServer
let port: number
beforeAll(async () => {
  server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 1000 })
  api = await serveHttp(server, { token: TOKEN, plugins: [live] })
  port = Number(new URL(api.address).port)
})
afterAll(async () => {
  await api.close()
  await server.close()
})

/** Bytes received until the server ends the connection. */
function exchange(bytes: string | Buffer, { half = false }: { half?: boolean } = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = ''
    const socket = connect(port, '127.0.0.1')
    const timer = setTimeout(() => {
      socket.destroy()
      reject(new Error(`the connection stays open after ${JSON.stringify(bytes.toString('latin1').slice(0, 200))}: ${answer}`))
    }, HANGS_MS)
    socket.on('data', (data) => (answer += data.toString('latin1')))
    socket.on('error', () => undefined)
    socket.on('close', () => {
      clearTimeout(timer)
      resolve(answer)
    })
    if (half) socket.end(bytes)
    else socket.write(bytes)
  })
}

const statuses = (answer: string): number[] => [...answer.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, code]) => Number(code))

/** A request as text, with its head and body. */
const request = (line: string, headers = '', body = ''): string =>
  `${line}\r\nhost: localhost:${port}\r\n${headers}connection: close\r\n\r\n${body}`

const SMUGGLED = `GET /v1/readyz HTTP/1.1\r\nhost: localhost\r\n${AUTHORISED}\r\n`

/** Two lengths, or one that parsers interpret differently. */
const FRAMINGS: Readonly<Record<string, string>> = {
  'a length and chunks': 'content-length: 4\r\ntransfer-encoding: chunked\r\n',
  'chunks and a length': 'transfer-encoding: chunked\r\ncontent-length: 4\r\n',
  'two lengths': 'content-length: 4\r\ncontent-length: 5\r\n',
  'a list of lengths': 'content-length: 4, 5\r\n',
  'a negative length': 'content-length: -1\r\n',
  'a length with a sign': 'content-length: +4\r\n',
  'a hexadecimal length': 'content-length: 0x4\r\n',
  'a length over 2^64': 'content-length: 99999999999999999999999\r\n',
  'an unknown encoding': 'transfer-encoding: xchunked\r\n',
  'chunks that are not last': 'transfer-encoding: chunked, identity\r\n',
  'two encodings': 'transfer-encoding: identity\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n',
  'a space before the colon': 'content-length : 4\r\n',
  'a folded header': 'transfer-encoding:\r\n chunked\r\ncontent-length: 4\r\n',
  'a header of a bare line feed': 'x: y\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n',
  'a name that is none': '\x0bcontent-length: 4\r\n',
  'a zero byte': 'content-length: 4\0\r\n',
}

describe('odd requests', () => {
  it.each(Object.entries(FRAMINGS))('%s: nothing is smuggled behind them', async (_, framing) => {
    for (const authorised of ['', AUTHORISED]) {
      const head = `POST /v1/checkpoints/a/files HTTP/1.1\r\nhost: localhost\r\n${authorised}content-type: application/json\r\n${framing}\r\n`
      const answer = await exchange(`${head}0\r\n\r\n${SMUGGLED}`, { half: true })
      expect(statuses(answer).length, answer).toBeLessThanOrEqual(1)
      expect(answer).not.toContain('"state"')
      for (const status of statuses(answer)) expect([400, 401, 411, 413, 415, 422]).toContain(status)
    }
  })

  it('of strangers: one answer, no state, no failure of ours, and the end', async () => {
    const targets = [
      ...['/v1/readyz', '//v1/readyz', '/v1/./readyz', '/v1/healthz/../readyz', '/v1/%72eadyz', '/V1/READYZ', '/v1/readyz/'],
      ...['/v1/readyz%00', '/v1/healthz%2f..%2freadyz', '/v1/%zz', '/%', '/v1/live;a=b', '/v1/live?x', '/v1/live#x', '*'],
      ...[
        `http://localhost:${port}/v1/readyz`,
        'http://elsewhere/v1/healthz/../readyz',
        'localhost:1',
        'v1/readyz',
        '/metrics',
      ],
      ...[
        '/v1/checkpoints/..%2f..%2fetc/files',
        `/v1/checkpoints/${'a'.repeat(600)}/files`,
        '/\xff\xfe',
        '/openapi.json',
        '/live/',
      ],
    ]
    const methods = [
      'GET',
      'HEAD',
      'POST',
      'PUT',
      'DELETE',
      'OPTIONS',
      'TRACE',
      'PATCH',
      'CONNECT',
      'PROPFIND',
      'PRI',
      'get',
      'G\0T',
    ]
    const headers = [
      '',
      'authorization: Bearer wrong\r\n',
      `authorization: Bearer wrong\r\n${AUTHORISED}`,
      `x-authorization: Bearer ${TOKEN}\r\n`,
      `authorization: Basic ${TOKEN}\r\n`,
      `authorization: Bearer ${TOKEN}x\r\n`,
      `cookie: token=${TOKEN}\r\n`,
      'upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n',
      'upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n',
      'expect: 100-continue\r\ncontent-length: 100\r\n',
      'expect: everything\r\n',
      'x: y\r\n'.repeat(3000),
      `x: ${'y'.repeat(20_000)}\r\n`,
      'host: elsewhere\r\n',
      'x-forwarded-for: 127.0.0.1\r\nx-http-method-override: DELETE\r\nx-original-url: /v1/healthz\r\n',
    ]
    const versions = ['HTTP/1.1', 'HTTP/1.0', 'HTTP/2.0', 'HTTP/0.9', 'HTTP/1.2', '']
    const tried = [
      ...targets.flatMap((target) => methods.slice(0, 9).map((method) => request(`${method} ${target} HTTP/1.1`))),
      ...headers.flatMap((more) =>
        ['GET /v1/readyz', 'POST /v1/checkpoints/a/files'].map((line) => request(`${line} HTTP/1.1`, more)),
      ),
      ...versions.flatMap((version) => methods.map((method) => request(`${method} /v1/readyz ${version}`))),
      'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0',
      '\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03',
      '\r\n\r\n\r\nGET /v1/readyz HTTP/1.1\r\nhost: localhost\r\n\r\n',
      'GET /v1/readyz\r\n\r\n',
      'hello\n',
    ]
    for (let from = 0; from < tried.length; from += 50) {
      await Promise.all(
        tried.slice(from, from + 50).map(async (bytes) => {
          const answer = await exchange(Buffer.from(bytes, 'latin1'))
          const said = `${JSON.stringify(bytes.slice(0, 120))} was answered ${JSON.stringify(answer.slice(0, 200))}`
          const final = statuses(answer).filter((status) => status !== 100)
          expect(final.length, said).toBeLessThanOrEqual(1)
          // Of a repeated header the first one counts.
          for (const status of final) expect([200, 400, 401, 403, 404, 405, 411, 414, 415, 417, 431], said).toContain(status)
          if (final[0] === 200) expect(bytes, said).toMatch(/^\S+ (http:\/\/\S*)?\/(v1\/healthz|live)/)
          expect(answer, said).not.toMatch(/"state"|"openapi"|"rank"|ckpt_|\n {4}at /)
        }),
      )
    }
  })

  it('in great numbers, and none at all, end nothing but their own connections, over TCP and over a unix socket', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'ckpt-odd-'))
    onTestFinished(() => rmSync(directory, { recursive: true }))
    for (const where of [{ socketPath: join(directory, 'api.sock') }, {}]) {
      const small = await serveHttp(server, { ...where, token: TOKEN, maxConnections: 16 })
      const url = where.socketPath === undefined ? new URL(small.address) : undefined
      const open = () => (url ? connect(Number(url.port), url.hostname) : connect(small.address))
      const silent = Array.from({ length: 60 }, (_, i) => {
        const socket = open()
        socket.on('error', () => undefined).resume()
        if (i % 3 > 0) socket.write(i % 3 === 1 ? 'GET /v1/readyz HTTP/1.1\r\nx' : request('GET /v1/readyz HTTP/1.1'))
        return new Promise((resolve) => socket.on('close', resolve))
      })
      // Connections above the limit are ended, and an authorised call is answered.
      await Promise.any(silent)
      const answer = await new Promise<string>((resolve) => {
        let text = ''
        const socket = open()
        socket.on('data', (data) => (text += data.toString('latin1'))).on('close', () => resolve(text))
        socket.write(request('GET /v1/readyz HTTP/1.1', AUTHORISED))
      })
      expect(statuses(answer)).toEqual([200])
      // A closing server does not wait for connections without a request.
      await small.close()
      await Promise.all(silent)
    }
  })

  it('of callers are answered as they are meant, or refused', async () => {
    const ask = async (line: string, headers = '', body = '') =>
      statuses(await exchange(request(`${line} HTTP/1.1`, AUTHORISED + headers, body)))
    expect(await ask('GET /v1/readyz')).toEqual([200])
    expect(await ask('GET /v1/%72eadyz')).toEqual([200])
    expect(await ask('GET /v1/readyz', 'upgrade: websocket\r\n')).toEqual([200])
    expect(await ask('GET /v1/readyz', 'expect: everything\r\n')).toEqual([417])
    expect(await ask('GET /v1/%zz')).toEqual([400])
    expect(await ask('DELETE /v1/checkpoints/a%00b')).toSatisfy(([status]: number[]) => [200, 400, 404, 422].includes(status!))
    expect(await ask('CONNECT localhost:22')).toEqual([])
    // If the body was announced before it is sent.
    const length = 'content-type: application/json\r\ncontent-length: 2\r\nexpect: 100-continue\r\n'
    expect(await ask('POST /v1/checkpoints/a/files', length, '{}')).toEqual([100, 422])
    // In pieces of any size, and with the body as a separate piece.
    const bytes = request(
      'POST /v1/checkpoints/a/files HTTP/1.1',
      `${AUTHORISED}content-type: application/json\r\ncontent-length: 2\r\n`,
      '{}',
    )
    for (const size of [1, 7, 64, bytes.indexOf('{}')]) expect(statuses(await inPieces(bytes, size))).toEqual([422])
    // Ended by the client before and after a request: its other half is still read.
    for (const part of ['', 'G', 'GET /v1/readyz HTTP/1.1\r\n', bytes.slice(0, 60)]) {
      expect(statuses(await exchange(part, { half: true }))).toEqual(part === '' ? [] : [400])
    }
    expect(statuses(await exchange(request('GET /v1/readyz HTTP/1.1', AUTHORISED), { half: true }))).toEqual([200])
    // More than one request on a connection, the second one pipelined.
    const two = SMUGGLED + request('GET /v1/readyz HTTP/1.1', AUTHORISED)
    expect(statuses(await exchange(two))).toEqual([200, 200])
  })
})

function inPieces(bytes: string, size: number): Promise<string> {
  return new Promise((resolve) => {
    let answer = ''
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    socket.on('data', (data) => (answer += data.toString('latin1'))).on('close', () => resolve(answer))
    let at = 0
    const send = () => {
      socket.write(bytes.slice(at, (at += size)))
      if (at < bytes.length) setImmediate(send)
    }
    socket.once('connect', send)
  })
}
