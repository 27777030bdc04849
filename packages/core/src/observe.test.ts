import { trace } from '@opentelemetry/api'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import { CkptError, type EngineAdapter } from '@ckpt/contract'
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { ParameterServer } from './parameter-server.ts'
import type { UpdateReport } from './report.ts'
import { describeUpdate, inSpan } from './spans.ts'

const TENSORS = { 'a.weight': { dtype: 'F32', shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) } } as const

const unreachable: EngineAdapter = {
  name: 'unreachable',
  ready: () => Promise.reject(new CkptError('ENGINE_UNREACHABLE', 'nobody there')),
  start: () => Promise.reject(new Error('not reached')),
}

/**
 * An engine that is not ready until `release` is called (it then fails with `error`, if given) or until the update is aborted.
 */
function waiting(error: Error): { engine: EngineAdapter; asked: Promise<void>; release: () => void } {
  let release = () => {}
  let ask = () => {}
  const released = new Promise<void>((_, reject) => (release = () => reject(error)))
  released.catch(() => undefined)
  const asked = new Promise<void>((resolve) => (ask = resolve))
  const engine: EngineAdapter = {
    ...unreachable,
    ready({ signal }) {
      ask()
      const aborted = new Promise<void>((_, reject) =>
        signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true }),
      )
      return Promise.race([released, aborted])
    },
  }
  return { engine, asked, release: () => release() }
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
    server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 1000 })
  })
  afterEach(() => server.close())

  it('takes nothing more once it drains, and lets what runs end', async () => {
    expect(server.health()).toEqual({ rank: 0, worldSize: 1, state: 'ready', reasons: [], hindrances: [], dirty: [] })
    await server.registerCheckpoint('one', { tensors: TENSORS })
    const late = new CkptError('ENGINE_UNREACHABLE', 'late')
    const { engine: slow, asked, release } = waiting(late)
    const running = server.update('one', { engine: slow }).catch((error: unknown) => error)
    await asked
    expect(server.health().state).toBe('updating')
    const drained = server.drain({ timeoutMs: 5000 })
    expect(server.health()).toMatchObject({ state: 'draining', reasons: ['draining'] })
    await expect(server.update('one', { engine: slow })).rejects.toMatchObject({ code: 'INVALID_STATE' })
    await expect(server.registerCheckpoint('two', { tensors: TENSORS })).rejects.toMatchObject({ code: 'INVALID_STATE' })
    release()
    expect(await running).toMatchObject({ code: 'ENGINE_UNREACHABLE', message: 'late' })
    await drained
    expect(server.health().state).toBe('closed')
  })

  it('does not wait for ever for what runs', async () => {
    await server.registerCheckpoint('one', { tensors: TENSORS })
    const { engine: stuck, asked } = waiting(new Error('never'))
    const running = server.update('one', { engine: stuck, timeoutMs: 60_000 }).catch((error: unknown) => error)
    await asked
    await server.drain({ timeoutMs: 100 })
    expect(await running).toMatchObject({ code: 'ABORTED' })
  })
})

describe('with an OpenTelemetry SDK', () => {
  const exporter = new InMemorySpanExporter()
  beforeEach(() => {
    trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }))
  })
  afterEach(() => {
    trace.disable()
    exporter.reset()
  })

  it('an update is a span with a child for each step, where the step was', async () => {
    await inSpan('ckpt.update', { 'ckpt.checkpoint': 'c' }, (span) => Promise.resolve(describeUpdate(span, REPORT)))
    const spans = exporter.getFinishedSpans()
    const update = spans.find(({ name }) => name === 'ckpt.update')!
    expect(update.attributes).toMatchObject({ 'ckpt.epoch': 7, 'ckpt.bytes': 1000, 'ckpt.version': 'v' })
    const steps = spans.filter((span) => span !== update)
    expect(steps.map(({ name }) => name)).toEqual(
      ['begin', 'plan', 'attach', 'pipeline', 'commit'].map((step) => `ckpt.${step}`),
    )
    expect(steps[0]!.startTime).toEqual([1_700_000_000, 0])
    for (let i = 1; i < steps.length; i++) expect(steps[i]!.startTime).toEqual(steps[i - 1]!.endTime)
    expect(steps[3]!.duration).toEqual([0, 400_000_000])
  })

  it('failures carry their code', async () => {
    const server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 1000 })
    onTestFinished(() => server.close())
    await server.registerCheckpoint('one', { tensors: TENSORS })
    await server.update('one', { engine: unreachable }).catch(() => undefined)
    const [register, update] = exporter.getFinishedSpans()
    expect(register).toMatchObject({ name: 'ckpt.register', attributes: { 'ckpt.checkpoint': 'one', 'ckpt.bytes': 256 } })
    expect(update).toMatchObject({
      name: 'ckpt.update',
      attributes: { 'error.type': 'ENGINE_UNREACHABLE' },
      status: { code: 2 },
    })
    expect(update!.events.map(({ name }) => name)).toEqual(['exception'])
  })
})
