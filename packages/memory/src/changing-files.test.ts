import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
  closeSync,
  symlinkSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { CkptError, type FileReadRequest, type Host } from '@ckpt/contract'
import { writeFile, type WritableTensor } from '@ckpt/safetensors'
import { createHost } from '@ckpt/transport'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { CheckpointStore } from './checkpoint-store.ts'
import { contents } from './fixtures.ts'
import type { CheckpointSource } from './source.ts'

const SHARDS = 3
const TENSORS = 3
const BYTES = 3000
const INDEX = 'model.safetensors.index.json'

const host = createHost()
let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-changing-'))
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

const shard = (index: number) => `model-${index}.safetensors`
/** The byte that fills a tensor of a step: unique among all tensors of all steps. */
const byteOf = (step: number, index: number, tensor: number) => step * SHARDS * TENSORS + index * TENSORS + tensor + 1

/** Writes the shards and the index of one step; headers differ in length between steps, so that data has different offsets. */
async function writeStep(folder: string, step: number): Promise<void> {
  mkdirSync(folder, { recursive: true })
  const weightMap: Record<string, string> = {}
  for (let index = 0; index < SHARDS; index++) {
    const tensors = Array.from({ length: TENSORS }, (_, tensor): WritableTensor => {
      weightMap[`${index}.${tensor}`] = shard(index)
      return {
        name: `${index}.${tensor}`,
        dtype: 'U8',
        shape: [BYTES],
        data: new Uint8Array(BYTES).fill(byteOf(step, index, tensor)),
      }
    })
    await writeFile(join(folder, shard(index)), tensors, { metadata: { note: 'x'.repeat(100 * step) } })
  }
  writeFileSync(join(folder, INDEX), JSON.stringify({ metadata: { note: 'y'.repeat(10 * step) }, weight_map: weightMap }))
}

/**
 * All possible changes of files, applied to the victim (`model-1.safetensors` or the index) of the checkpoint at `at`; `next`
 * is step 2.
 */
const CHANGES: Record<string, (at: string, victim: string, next: string) => void> = {
  'replaced by rename': (at, victim, next) => {
    copyFileSync(join(next, victim), join(at, 'new'))
    renameSync(join(at, 'new'), join(at, victim))
  },
  'replaced, and put back': (at, victim, next) => {
    renameSync(join(at, victim), join(at, 'old'))
    copyFileSync(join(next, victim), join(at, victim))
    renameSync(join(at, 'old'), join(at, victim))
  },
  truncated: (at, victim) => truncateSync(join(at, victim), Math.floor(statSync(join(at, victim)).size / 2)),
  appended: (at, victim) => appendFileSync(join(at, victim), ' '),
  'overwritten in place, with its times kept': (at, victim, next) => {
    const path = join(at, victim)
    const { atime, mtime, size } = statSync(path)
    const bytes = readFileSync(join(next, victim)).subarray(0, size)
    const descriptor = openSync(path, 'r+')
    writeSync(
      descriptor,
      bytes,
      Math.floor(bytes.length / 2),
      bytes.length - Math.floor(bytes.length / 2),
      Math.floor(bytes.length / 2),
    )
    closeSync(descriptor)
    utimesSync(path, atime, mtime)
  },
  'rewritten in place': (at, victim, next) => writeFileSync(join(at, victim), readFileSync(join(next, victim))),
  deleted: (at, victim) => unlinkSync(join(at, victim)),
  'the whole set replaced, file by file': (at, _, next) => {
    for (const name of [...Array.from({ length: SHARDS }, (_unused, index) => shard(index)), INDEX]) {
      copyFileSync(join(next, name), join(at, 'new'))
      renameSync(join(at, 'new'), join(at, name))
    }
  },
  'the directory swapped': (at, _, next) => {
    renameSync(at, `${at}-old`)
    renameSync(next, at)
  },
}

/** The real host, where `at` is called at every point: for each file that is opened, before, during and after reading. */
function watched(point: () => void, descriptors: boolean): Host {
  return new Proxy(host, {
    get(target, key) {
      if (key === 'openBeneath') {
        return async (folder: number, path: string) => {
          point()
          const descriptor = await target.openBeneath!(folder, path)
          point()
          return descriptor
        }
      }
      if (key === 'read') {
        return async (request: FileReadRequest) => {
          point()
          const half = Math.ceil(request.reads.length / 2)
          // Without descriptors, as if there were too many files to keep them open.
          const files = request.files.map((file) =>
            typeof file === 'string' || descriptors ? file : { path: file.path, identity: file.identity! },
          )
          // Half of the reads do not fill all requested digest ranges.
          await target.read({ ...request, files, digested: [], reads: request.reads.slice(0, half) })
          point()
          const { digests: _, ...done } = await target.read({
            ...request,
            files,
            digested: [],
            reads: request.reads.slice(half),
          })
          point()
          return done
        }
      }
      const value: unknown = Reflect.get(target, key)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

/** Registers with the change at the n-th point; returns the result and the number of points. */
async function trial(change: string, victim: string, at: number, named: boolean, descriptors: boolean) {
  const root = mkdtempSync(join(directory, 'trial-'))
  const [current, next] = [join(root, 'current'), join(root, 'next')]
  await writeStep(current, 1)
  await writeStep(next, 2)
  let points = 0
  const store = new CheckpointStore(
    watched(() => {
      if (points++ === at) CHANGES[change]!(current, victim, next)
    }, descriptors),
  )
  const files = Array.from({ length: SHARDS }, (_, index) => join(current, shard(index)))
  const source: CheckpointSource = named ? { files, root: current } : { directory: current }
  const outcome = await attempt(store, source)
  if (outcome !== 'step 1') {
    // The current files on disk, one of which may be from the other step, read without interference; any other mix is an error.
    const now = await attempt(new CheckpointStore(host), source)
    if (outcome.startsWith('retry')) expect(outcome).toContain(root)
    else expect(outcome).toBe(now)
  }
  await store.close()
  rmSync(root, { recursive: true })
  return { outcome: outcome.split(':')[0]!, points }
}

/** Registers, and returns the contents or the error. */
async function attempt(store: CheckpointStore, source: CheckpointSource): Promise<string> {
  try {
    await store.register('x', source)
  } catch (error) {
    if (!CkptError.is(error)) throw error
    expect(store.names).toEqual([])
    expect(error.message).toContain(error.fields.file)
    return `${error.retryable ? `retry ${error.code}` : error.code}: ${error.fields.file}`
  }
  const found = contents(store, 'x')
  const steps = Array.from({ length: SHARDS * TENSORS }, (_, i) => {
    const [index, tensor] = [Math.floor(i / TENSORS), i % TENSORS]
    const bytes = Buffer.from(found.get(`${index}.${tensor}`) ?? '', 'base64')
    const step = (bytes[0]! - byteOf(0, index, tensor)) / (SHARDS * TENSORS)
    return bytes.length === BYTES && bytes.every((byte) => byte === bytes[0]) ? step : bytes.toString('base64')
  })
  return steps.every((step) => step === steps[0]) ? `step ${steps[0]}` : `mix of ${steps.join(' ')}`
}

describe('a checkpoint whose files change while it is registered', () => {
  // Opened (two points each), read (three), and checked again (two each).
  const POINTS = SHARDS * 4 + 3
  it.each(Object.keys(CHANGES))(
    'is registered as it was, as it is, or not at all: %s',
    { timeout: 120_000 },
    async (change) => {
      const outcomes = new Map<string, number>()
      for (const descriptors of [true, false]) {
        for (let at = 0; at <= POINTS; at++) {
          const { outcome, points } = await trial(change, shard(1), at, true, descriptors)
          outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
          if (at === POINTS) expect([outcome, points]).toEqual(['step 1', POINTS])
        }
      }
      // A change in the middle is detected; one before the file is opened, or after it was checked again, is harmless.
      expect(outcomes.get('retry CHECKPOINT_CHANGED') ?? 0, JSON.stringify([...outcomes])).toBeGreaterThan(4)
      expect(outcomes.get('step 1') ?? 0).toBeGreaterThan(1)
    },
  )

  it.each(Object.keys(CHANGES))('has its index looked at again, too: %s', { timeout: 60_000 }, async (change) => {
    for (const victim of [INDEX, shard(2)]) {
      for (const at of [0, 1]) {
        expect((await trial(change, victim, at, false, true)).outcome, `${victim} ${at}`).toBe('retry CHECKPOINT_CHANGED')
      }
    }
  })

  it('is never a mix when whole steps are swapped in at any time by another thread', { timeout: 120_000 }, async () => {
    const root = mkdtempSync(join(directory, 'swap-'))
    const steps = [1, 2, 3, 4]
    for (const step of steps) await writeStep(join(root, `step-${step}`), step)
    const latest = join(root, 'latest')
    symlinkSync('step-1', latest)
    const stop = new Int32Array(new SharedArrayBuffer(4))
    const worker = new Worker(
      `const { workerData: { root, stop } } = require('node:worker_threads'); const fs = require('node:fs')
       for (let n = 0; Atomics.load(stop, 0) === 0; n++) {
         fs.symlinkSync('step-' + (1 + n % 4), root + '/new'); fs.renameSync(root + '/new', root + '/latest')
         const until = performance.now() + Math.random() * 12; while (performance.now() < until);
       }`,
      { eval: true, workerData: { root, stop } },
    )
    const outcomes = new Map<string, number>()
    try {
      const store = new CheckpointStore(host)
      const until = performance.now() + 8000
      for (let n = 0; n < 400 && performance.now() < until; n++) {
        const files = Array.from({ length: SHARDS }, (_, index) => join(latest, shard(index)))
        const outcome = (await attempt(store, n % 2 === 0 ? { directory: latest } : { files, root })).split(':')[0]!
        expect(outcome).toMatch(/^(?:step [1-4]|retry CHECKPOINT_CHANGED)$/)
        if (store.has('x')) store.unregister('x')
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
      }
      await store.close()
    } finally {
      Atomics.store(stop, 0, 1)
      await worker.terminate()
    }
    expect(outcomes.get('retry CHECKPOINT_CHANGED') ?? 0, JSON.stringify([...outcomes])).toBeGreaterThan(0)
  })
})
