import { mkdtempSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeFile } from '@ckpt/safetensors'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { serveMetrics } from '../metrics/serve-metrics.ts'
import { ParameterServer } from '@ckpt/core'
import { live } from './live/plugin.ts'
import { serveHttp, type HttpServer } from './serve.ts'

const TOKEN = 'a-token-that-is-long-enough'
const CHECKPOINTS = 600
/** Maximum growth of memory, in MiB, while many times as much is not read. */
const MOST_MIB = 100
/** What the system may buffer for a connection, in MiB. */
const SYSTEM_MIB = 8
/** A call that takes longer counts as hanging. */
const HANG_MS = 30_000

describe('readers that never read', { timeout: 120_000 }, () => {
  let directory: string
  let server: ParameterServer
  let http: HttpServer
  let metrics: Awaited<ReturnType<typeof serveMetrics>>
  const register = (name: string) => server.registerCheckpoint(name, { files: [join(directory, 'a.safetensors')] })
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'ckpt-slow-'))
    await writeFile(join(directory, 'a.safetensors'), [{ name: 'w', dtype: 'U8', shape: [1], data: new Uint8Array(1) }])
    server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 1000 })
    // Makes the answers long.
    for (let i = 0; i < CHECKPOINTS; i++) await register(`${i}${'x'.repeat(800)}`)
    http = await serveHttp(server, { token: TOKEN, plugins: [live] })
    metrics = await serveMetrics(server, { port: 0 })
  })
  afterAll(async () => {
    await http.close()
    await metrics.close()
    await server.close()
    rmSync(directory, { recursive: true })
  })

  /** Connections that send requests and do not read the answers. */
  function deaf(port: number, count: number, requests: string): Socket[] {
    const sockets = Array.from({ length: count }, () => {
      const socket = connect({ port, host: '127.0.0.1' }, () => socket.write(requests))
      return socket.on('error', () => undefined).pause()
    })
    onTestFinished(() => sockets.forEach((socket) => void socket.destroy()))
    return sockets
  }
  const request = (port: number, path: string) =>
    `GET ${path} HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\nauthorization: Bearer ${TOKEN}\r\n\r\n`

  /** Milliseconds of the slowest of some concurrent calls, and the growth of memory, in MiB. */
  async function beside(
    url: string,
    work: () => Promise<void>,
    enough = () => true,
  ): Promise<{ slowest: number; grown: number }> {
    const before = process.memoryUsage.rss()
    const result = { slowest: 0, grown: 0 }
    for (let i = 0; i < 10 || !enough(); i++) {
      const started = performance.now()
      const answer = await fetch(url, {
        headers: { authorization: `Bearer ${TOKEN}`, connection: 'close' },
        signal: AbortSignal.timeout(HANG_MS),
      })
      expect(answer.status).toBe(200)
      await answer.text()
      result.slowest = Math.max(result.slowest, Math.round(performance.now() - started))
      await work()
      result.grown = Math.max(result.grown, Math.round((process.memoryUsage.rss() - before) / 2 ** 20))
    }
    return result
  }

  it('event streams are not sent more than they take, and others are told', async () => {
    const port = Number(new URL(http.address).port)
    const size = (await (await fetch(`${http.address}/v1/live`, { headers: { authorization: `Bearer ${TOKEN}` } })).text())
      .length
    deaf(port, 15, request(port, '/v1/live/events'))
    let reported = 0
    const reading = connect({ port, host: '127.0.0.1' }, () => reading.write(request(port, '/v1/live/events')))
    onTestFinished(() => void reading.destroy())
    reading.on('data', (part: Buffer) => (reported += part.length))
    let changes = 0
    const result = await beside(
      `${http.address}/v1/healthz`,
      async () => {
        const until = performance.now() + 300
        while (performance.now() < until) {
          await register('changing')
          await server.unregisterCheckpoint('changing')
          changes++
          await new Promise((resolve) => setTimeout(resolve, 10))
        }
      },
      () => (reported / 2 ** 20 - SYSTEM_MIB) * 15 > 1.5 * MOST_MIB,
    )
    console.log(
      `event streams: state of ${size} bytes, ${changes} changes, ${reported} bytes read by one, ${JSON.stringify(result)}`,
    )
    // A client that reads gets everything; fifteen times as much, more than this, was not kept for those that do not.
    expect(result.grown).toBeLessThan(MOST_MIB)
  })

  it.each(['/metrics', '/v1/live'])('%s asked for 500 times on a connection, by 15 with the token', async (path) => {
    const port = Number(new URL(http.address).port)
    deaf(port, 15, request(port, path).repeat(500))
    const result = await beside(`${http.address}/v1/healthz`, () => new Promise((resolve) => setTimeout(resolve, 100)))
    console.log(`${path}: ${JSON.stringify(result)}`)
    expect(result.grown).toBeLessThan(MOST_MIB)
  })

  it('the metrics port, asked 100 times on each of 500 connections', async () => {
    const { port } = metrics
    deaf(port, 500, request(port, '/metrics').repeat(100))
    const result = await beside(`http://127.0.0.1:${port}/metrics`, () => new Promise((resolve) => setTimeout(resolve, 100)))
    console.log(`metrics port: ${JSON.stringify(result)}`)
    expect(result.grown).toBeLessThan(MOST_MIB)
  })
})
