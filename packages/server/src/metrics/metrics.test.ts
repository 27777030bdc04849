import { request } from 'node:http'
import { CkptError, type EngineAdapter } from '@ckpt/contract'
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { ParameterServer, type UpdateReport } from '@ckpt/core'
import { createParameterServer } from '../create.ts'
import { metricsOf } from './metrics-of.ts'
import { serveMetrics } from './serve-metrics.ts'
import { UpdateMetrics } from './update-metrics.ts'

const TENSORS = { 'a.weight': { dtype: 'F32', shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) } } as const

const unreachable: EngineAdapter = {
  name: 'unreachable',
  ready: () => Promise.reject(new CkptError('ENGINE_UNREACHABLE', 'nobody there')),
  start: () => Promise.reject(new Error('not reached')),
}

const REPORT: UpdateReport = {
  checkpoint: 'c',
  version: 'v',
  epoch: 7,
  rank: 0,
  strategy: 'broadcast',
  how: 'broadcast',
  mode: 'pipelined',
  modeReason: '',
  bytes: 1000,
  tensors: 3,
  buckets: 1,
  ringBytes: 4096,
  bucketBytes: 1024,
  verified: 'bytes',
  verification: { level: 'bytes', bytes: 1, routes: 1, milliseconds: 1 },
  digest: 'd',
  h2dBytes: 1024,
  broadcastBytes: 2048,
  totalMs: 1500,
  startedUs: 1_700_000_000_000_000,
  steps: { beginMs: 100, planMs: 200, attachMs: 300, pipelineMs: 400, commitMs: 500 },
  stages: { h2dMs: 250, broadcastMs: 125, reloadMs: 500, idleMs: 0 },
  spans: new Float64Array(0),
}

describe('a parameter server', () => {
  let server: ParameterServer
  beforeEach(async () => {
    server = await createParameterServer({ rank: 0, worldSize: 1, timeoutMs: 1000, metricsPort: 0 })
  })
  afterEach(() => server.close())

  it('counts failures by code, and says so in the text format', async () => {
    await server.registerCheckpoint('one', { tensors: TENSORS })
    await expect(server.registerCheckpoint('one', { tensors: TENSORS })).rejects.toMatchObject({ code: 'CHECKPOINT_EXISTS' })
    await expect(server.update('one', { engine: unreachable })).rejects.toMatchObject({ code: 'ENGINE_UNREACHABLE' })
    const text = await metricsOf(server).text()
    expect(text).toContain('ckpt_registered_bytes_total{rank="0"} 256')
    expect(text).toContain('ckpt_failures_total{code="CHECKPOINT_EXISTS",rank="0"} 1')
    expect(text).toContain('ckpt_failures_total{code="ENGINE_UNREACHABLE",rank="0"} 1')
    expect(text).toContain('ckpt_updates_total{engine="unreachable",strategy="auto",result="failed",rank="0"} 1')
    expect(text).toContain('ckpt_epoch{rank="0"} 1')
    expect(text).toContain('ckpt_ready{rank="0"} 1')
    expect(text).toContain('ckpt_world_size{rank="0"} 1')
  })
})

it('serves metrics, health and readiness over HTTP, and nothing else', async () => {
  const server = await ParameterServer.create({ rank: 0, worldSize: 1 })
  onTestFinished(() => server.close())
  const http = await serveMetrics(server, { port: 0 })
  onTestFinished(() => http.close())
  const get = (path: string, init: RequestInit = {}) => fetch(`http://127.0.0.1:${http.port}${path}`, init)
  const metrics = await get('/metrics')
  expect(metrics.headers.get('content-type')).toContain('text/plain; version=0.0.4')
  expect(await metrics.text()).toBe(await metricsOf(server).text())
  expect([(await get('/healthz')).status, (await get('/readyz')).status]).toEqual([200, 200])
  expect((await get('/metrics', { method: 'POST', body: 'x' })).status).toBe(405)
  expect((await get('/../etc/passwd')).status).toBe(404)
  await expect(serveMetrics(server, { port: http.port })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    fields: { field: 'metricsPort' },
  })
  await server.close()
  expect([(await get('/healthz')).status, (await get('/readyz')).status]).toEqual([200, 503])
})

it('serves metrics on the loopback interface to requests that name it, so that no web page reads them by a name of its own', async () => {
  const server = await ParameterServer.create({ rank: 0, worldSize: 1 })
  onTestFinished(() => server.close())
  const status = (port: number, host: string) =>
    new Promise<number | undefined>((resolve, reject) =>
      request(
        { port, host: '127.0.0.1', path: '/metrics', headers: { host } },
        (answer) => (answer.resume(), resolve(answer.statusCode)),
      )
        .on('error', reject)
        .end(),
    )
  const local = await serveMetrics(server, { port: 0 })
  onTestFinished(() => local.close())
  for (const host of [`127.0.0.1:${local.port}`, 'localhost', 'LOCALHOST:1', '[::1]:80', '127.1.2.3']) {
    expect(await status(local.port, host), host).toBe(200)
  }
  for (const host of [
    'evil.example',
    `evil.example:${local.port}`,
    '127.0.0.1.evil.example',
    'localhost.evil.example',
    '10.0.0.1',
    '0.0.0.0',
    'a b',
    '@localhost',
  ]) {
    expect([400, 403], host).toContain(await status(local.port, host))
  }
  // If other machines read them, they use names that this one does not know.
  const open = await serveMetrics(server, { port: 0, host: '0.0.0.0' })
  onTestFinished(() => open.close())
  expect(await status(open.port, 'node-17.cluster:9100')).toBe(200)
})

it('shows the numbers of a report', async () => {
  const metrics = new UpdateMetrics({
    rank: 3,
    worldSize: () => 8,
    engines: () => [0, 1, 2].map((rank) => ({ engine: 'e', rank, version: 'v', dirty: rank !== 1 })),
    reasons: () => ['draining'],
  })
  metrics.updated('e', REPORT)
  metrics.limited(0.5, 3)
  const values = Object.fromEntries(
    [...(await metrics.text()).matchAll(/^(ckpt\S+) (\S+)$/gm)].map(([, name, value]) => [name, value]),
  )
  expect(values).toMatchObject({
    'ckpt_last_update_seconds{rank="3"}': '1.5',
    'ckpt_last_update_bytes{rank="3"}': '1000',
    'ckpt_update_ratio_to_limit{rank="3"}': '3',
    'ckpt_update_limit_seconds{rank="3"}': '0.5',
    'ckpt_last_update_step_seconds{step="commit",rank="3"}': '0.5',
    'ckpt_stage_seconds_total{stage="h2d",rank="3"}': '0.25',
    'ckpt_bytes_total{stage="broadcast",rank="3"}': '2048',
    'ckpt_dirty_engines{engine="e",rank="3"}': '2',
    'ckpt_engine_version_info{engine="e",worker="1",version="v",rank="3"}': '1',
    'ckpt_ready{rank="3"}': '0',
  })
  // The limit was for the first update.
  metrics.updated('e', REPORT)
  expect(await metrics.text()).not.toMatch(/^ckpt_update_ratio_to_limit\{/m)
})
