import { randomUUID } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ParameterServer, auto, controlEngine, type CheckpointSource, type RegisterOptions } from '@ckpt/core'
import { headerFor } from '@ckpt/safetensors'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { EngineProcess, freePort, pythonInterpreter, pythonLacks, TrainerProcess } from '@ckpt/testing'

const noTrainer = pythonLacks('torch', 'zmq', 'msgspec', 'ckpt_worker.trainer')
type Figures = [done: number, total: number]

let directory: string
let server: ParameterServer
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-progress-'))
  const rendezvous = `tcp://127.0.0.1:${await freePort()}`
  server = await ParameterServer.create({ rank: 0, worldSize: 1, rendezvous, timeoutMs: 60_000 })
})
afterAll(async () => {
  await server.close()
  rmSync(directory, { recursive: true, force: true })
})

/** Checks the reported progress: within the total, increasing, and complete at the end. */
function check(told: readonly Figures[], what: string): void {
  expect(told.length, what).toBeGreaterThan(0)
  const parts = told.map(([done, total]) => (total === 0 ? 1 : done / total))
  for (const [index, part] of parts.entries()) {
    expect(part, `${what}: ${told[index]!.join(' of ')}`).toBeLessThanOrEqual(1)
    expect(part, `${what}: ${told[index]!.join(' of ')}`).toBeGreaterThanOrEqual(index === 0 ? 0 : parts[index - 1]!)
  }
  expect(parts.at(-1), what).toBe(1)
}

/** Follows what the live page receives about the current update. */
function follow(): { readonly told: Figures[]; stop(): void } {
  const told: Figures[] = []
  const note = () => {
    const { running } = server.activity
    if (running !== undefined && running.totalBytes > 0) told.push([running.loadedBytes, running.totalBytes])
  }
  server.activity.on('change', note)
  return { told, stop: () => server.activity.off('change', note) }
}

/** Registers a source and updates an engine with it three times: staged, recorded and direct. */
async function through(source: CheckpointSource, options: RegisterOptions, engine: EngineProcess): Promise<number> {
  const name = randomUUID()
  const registered: Figures[] = []
  await server.registerCheckpoint(name, source, { ...options, onProgress: (...figures) => registered.push(figures) })
  check(registered, 'register')
  try {
    for (const [round, strategy] of [undefined, auto(), auto()].entries()) {
      const told: Figures[] = []
      const live = follow()
      const report = await server.update(name, {
        engine: controlEngine({ socket: engine.socket }),
        // Many small buckets, so that there is progress to report.
        bucketBytes: 64 * 1024,
        ringBytes: 24 * 2 ** 20,
        ...(strategy && { strategy }),
        onProgress: (...figures) => told.push(figures),
      })
      live.stop()
      const what = `update ${round}, ${report.strategy}, ${report.direct?.fallback ?? 'direct'}`
      check(told, what)
      if (live.told.length > 0) check(live.told, `live page, ${what}`)
      if (report.direct === undefined) {
        expect(told.at(-1), what).toEqual([report.bytes, report.bytes])
        // Each bucket is a separate step: everything is complete only after the last one.
        expect(told, what).toHaveLength(report.buckets)
      }
    }
    return registered.at(-1)![1]
  } finally {
    await server.unregisterCheckpoint(name)
  }
}

/** Bytes of each tensor. */
const sizes = fc.array(
  fc.oneof(
    { weight: 1, arbitrary: fc.constant(0) },
    { weight: 4, arbitrary: fc.integer({ min: 1, max: 9 }) },
    { weight: 3, arbitrary: fc.integer({ min: 10, max: 70_001 }) },
    { weight: 1, arbitrary: fc.integer({ min: 2 ** 20, max: 5 * 2 ** 20 }) },
  ),
  { minLength: 1, maxLength: 120 },
)
// At least one tensor has bytes: an engine without any cannot be built.
const checkpoints = sizes.map((each) => [...each, 3])
const tiny = Array.from({ length: 5000 }, () => 4)

function write(file: string, bytes: readonly number[]): string {
  const tensors = bytes.map((size, index) => ({
    name: `layers.${index}.scale`,
    dtype: 'U8' as const,
    shape: [size],
    bytes: size,
  }))
  const { header } = headerFor(tensors)
  writeFileSync(
    file,
    Buffer.concat([
      header,
      Buffer.alloc(
        bytes.reduce((sum, size) => sum + size, 0),
        7,
      ),
    ]),
  )
  return file
}

/** Runs `body` with a separate engine for a checkpoint of these tensors. */
async function withEngine(bytes: readonly number[], body: (engine: EngineProcess, checkpoint: string) => Promise<void>) {
  const checkpoint = mkdtempSync(join(directory, 'checkpoint-'))
  write(join(checkpoint, 'model.safetensors'), bytes)
  const engine = new EngineProcess({ kind: 'typescript', directory: checkpoint, checkpoint, tpRank: 0, tpSize: 1 })
  try {
    await engine.ready()
    await body(engine, checkpoint)
  } finally {
    engine.process.child.kill('SIGKILL')
  }
}

describe('progress stays within 100 %, never goes back, and ends at all of it', () => {
  it('5,000 tiny tensors', async () => {
    await withEngine(tiny, async (engine, checkpoint) => {
      expect(await through({ directory: checkpoint }, {}, engine)).toBe(20_000)
    })
  })

  const sources = ['files', 'files in place', 'tensors', 'shared memory'] as const
  it.each(sources)('generated sizes, %s', async (source) => {
    await fc.assert(
      fc.asyncProperty(checkpoints, async (bytes) => {
        await withEngine(bytes, async (engine, checkpoint) => {
          if (source === 'files') {
            await through({ directory: checkpoint }, {}, engine)
            return
          }
          if (source === 'files in place') {
            const shared = `/dev/shm/${randomUUID()}`
            mkdirSync(shared)
            try {
              const files = [write(join(shared, 'model.safetensors'), bytes)]
              await through({ files }, { inPlace: true }, engine)
              return
            } finally {
              rmSync(shared, { recursive: true })
            }
          }
          const named = (data: (size: number, offset: number) => object) => {
            let offset = 0
            return bytes.map((size, index) => {
              const tensor = { name: `layers.${index}.scale`, dtype: 'U8' as const, shape: [size], data: data(size, offset) }
              offset += size
              return tensor
            })
          }
          if (source === 'tensors') {
            const tensors = named((size) => new Uint8Array(size).fill(7)) as Extract<
              CheckpointSource,
              { tensors: unknown }
            >['tensors']
            await through({ tensors }, {}, engine)
            return
          }
          const shared = randomUUID()
          writeFileSync(
            `/dev/shm/${shared}`,
            Buffer.alloc(
              bytes.reduce((sum, size) => sum + size, 0),
              7,
            ),
          )
          try {
            const tensors = named((_, offset) => ({ shared, offset })) as Extract<
              CheckpointSource,
              { tensors: unknown }
            >['tensors']
            await through({ tensors }, {}, engine)
          } finally {
            rmSync(`/dev/shm/${shared}`)
          }
        })
      }),
      { numRuns: 3, interruptAfterTimeLimit: 120_000 },
    )
  })

  it('a trainer', async (context) => {
    if (noTrainer !== undefined) context.skip(`no Python trainer: ${noTrainer}`)
    const socket = join(directory, 'trainer')
    await using trainer = new TrainerProcess(pythonInterpreter(), [[socket, ['cpu', 6, 64, 256]]])
    await trainer.step(1)
    const told: Figures[] = []
    await server.registerCheckpoint('trained', { trainer: socket }, { onProgress: (...figures) => told.push(figures) })
    await trainer.registered()
    check(told, 'register')
    await server.unregisterCheckpoint('trained')
  })
})
