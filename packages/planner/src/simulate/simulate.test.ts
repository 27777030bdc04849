import { checkpointTensors, keptBytes, model, sharedManifest } from '@ckpt/models'
import { CkptError } from '@ckpt/contract'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { planBroadcast } from '../plan.ts'
import { predict, ratesBeside, type MeasuredRun, type ProcessorReading } from './bench.ts'
import { topology, type Rates } from './rates.ts'
import { simulate } from './simulate.ts'
import { simulateStaged } from './staged.ts'
import { dealtWorkload, type Workload } from './workload.ts'

function workload(id: string, gpus: number, tp: number, bytes?: number): Workload {
  const tensors = checkpointTensors(model(id), bytes === undefined ? {} : { bytes })
  return dealtWorkload(sharedManifest(id, tensors, gpus), keptBytes(tensors, tp))
}

const h200 = topology('h200-8x400g')
const small = workload('qwen3-30b-a3b', 2, 2, 4e9)
const total = (of: Workload) => of.manifest.ranks.reduce((sum, { segments }) => sum + segments[0]!.bytes, 0)

describe('simulate', () => {
  it('keeps a host link busy all the time where nothing else is slower', () => {
    const rates = { ...h200, tensorSeconds: 0, updateSeconds: 0 }
    const { totalMs, bottleneck, boundMs } = simulate({ workload: small, rates, strategy: 'broadcast', tpSize: 2 })!
    const most = Math.max(...small.manifest.ranks.map(({ segments }) => segments[0]!.bytes))
    expect(bottleneck).toBe('host link')
    expect(boundMs).toBeCloseTo((most / rates.h2dRate) * 1000, 0)
    expect(totalMs).toBeGreaterThan(boundMs)
    expect(totalMs).toBeLessThan(boundMs * 1.1)
  })

  it('is slower by the tail alone when the pipeline is serial', () => {
    const plan = planBroadcast(small.manifest, { ringBytes: 700e6, preferredBucketBytes: 600e6, minBucketBytes: 600e6 })
    expect(plan.mode).toBe('serial')
    const { totalMs, stages } = simulateStaged(plan, small, h200)
    // One bucket at a time: only the chunks of one bucket overlap, and both owners' copies add up.
    expect(totalMs).toBeGreaterThan((total(small) / h200.h2dRate) * 1000 + stages.reloadMs)
  })

  it('counts the bytes of direct updates by tensor-parallel slices', () => {
    const tp = 4
    const cluster = workload('glm-4.5-air', 16, tp)
    const direct = simulate({ workload: cluster, rates: h200, strategy: 'direct', tpSize: tp })!
    const kept = keptBytes(checkpointTensors(model('glm-4.5-air')), tp).reduce((sum, bytes) => sum + bytes, 0)
    expect(kept).toBeGreaterThan(total(cluster) / tp)
    expect(kept).toBeLessThan((total(cluster) / tp) * 1.05)
    expect(direct.links.find(({ link }) => link === 'host link')!.bytes).toBe(kept)
    // Half of the bytes of each of eight GPUs come from the other host, over eight NICs.
    expect(direct.links.find(({ link }) => link === 'NIC')!.bytes / (kept / 2)).toBeCloseTo(1, 1)
  })

  it('simulates 4,096 GPUs and the full metadata of Kimi-K2 in under ten seconds', { timeout: 180_000 }, () => {
    // Processor time: wall time depends on other programs.
    const before = process.cpuUsage()
    const cluster = workload('kimi-k2', 4096, 16)
    for (const strategy of ['broadcast', 'p2p', 'direct'] as const) {
      for (const system of ['ckpt', 'checkpoint-engine'] as const) {
        const result = simulate({ workload: cluster, rates: topology('h20-8x400g'), strategy, system, tpSize: 16 })
        if (result !== undefined) expect(result.totalMs).toBeGreaterThan(result.boundMs)
        else expect([system, strategy]).toEqual(['checkpoint-engine', 'direct'])
      }
    }
    const { user, system } = process.cpuUsage(before)
    expect((user + system) / 1000).toBeLessThan(10_000)
  })

  it('never beats its bound, and no faster part makes an update slower', () => {
    const rate = fc.double({ min: 1e9, max: 1e12, noNaN: true })
    const fields = ['h2dRate', 'peerRate', 'nicRate', 'copyRate', 'hostMemoryRate', 'gatherRate'] as const
    const workloads = [workload('llama-3.1-8b', 4, 2, 1e9), workload('qwen3-30b-a3b', 16, 8, 2e9)]
    fc.assert(
      fc.property(
        fc.record(Object.fromEntries(fields.map((field) => [field, rate])) as Record<(typeof fields)[number], typeof rate>),
        fc.constantFrom(...fields),
        fc.constantFrom(...workloads),
        fc.constantFrom('broadcast', 'p2p', 'direct'),
        fc.constantFrom('ckpt', 'checkpoint-engine'),
        (given, field, of, strategy, system) => {
          const run = (rates: Rates) => simulate({ workload: of, rates, strategy, system, tpSize: 2 })
          const before = run({ ...h200, ...given })
          if (before === undefined) return
          expect(before.totalMs).toBeGreaterThanOrEqual(before.boundMs)
          const after = run({ ...h200, ...given, [field]: given[field] * 2 })!
          expect(after.totalMs).toBeLessThanOrEqual(before.totalMs * (1 + 1e-9))
        },
      ),
      { numRuns: 150 },
    )
  })

  it('gives the checkpoint-engine scheme three buffers and, in p2p, one receiver a NIC', () => {
    const cluster = workload('qwen3-235b-a22b', 8, 8)
    const rates = topology('h800-4x400g', 'vllm')
    const bucketBytes = 2 ** 31
    const peer = simulate({ workload: cluster, rates, strategy: 'p2p', system: 'checkpoint-engine', tpSize: 8, bucketBytes })!
    expect(peer.deviceBytes).toBe(3 * bucketBytes)
    const more = simulate({
      workload: cluster,
      rates: { ...rates, nicsPerHost: 8 },
      strategy: 'p2p',
      system: 'checkpoint-engine',
      tpSize: 8,
      bucketBytes,
    })!
    expect(more.stages.networkMs).toBeCloseTo(peer.stages.networkMs / 2, -2)
  })
})

describe('topology', () => {
  it('reads GPUs and NICs from its name', () => {
    expect(topology('h800-4x200G')).toMatchObject({ nicsPerHost: 4, nicRate: 24e9, gpusPerHost: 8 })
    expect(() => topology('h20')).toThrow(CkptError)
    expect(() => topology('b17-8x400g')).toThrow(/h20, h100, h200, h800/)
    expect(() => topology('h20-8x400g', 'trt')).toThrow(/reference, vllm/)
  })
})

describe('predict', () => {
  const run: MeasuredRun = {
    model: 'kimi-k2',
    backend: 'host',
    strategy: 'broadcast',
    ranks: 2,
    bytes: 1e9,
    tensors: 100,
    ringBytes: 4e8,
    bucketBytes: 1e7,
    updateMs: { median: 100, min: 90, max: 110, samples: [100, 90, 110] },
  }
  const reading: ProcessorReading = { processors: 2, copyRate: 10e9, reloadRate: 5e9, tcpRate: 2e9, updateSeconds: 0.02 }
  const same = run.updateMs.samples.map(() => [reading, reading] as const)
  const of = workload('kimi-k2', 2, 2, 1e9)
  const kept = of.kept.reduce((sum, column) => sum + column.reduce((all, bytes) => all + bytes, 0), 0)
  const predicted = (one: MeasuredRun) => {
    const found = predict(one, {}, () => of)
    if (typeof found === 'string') throw new Error(found)
    return found
  }

  it('takes no rates from a file that has none of its own', () => {
    expect(ratesBeside(run, {})).toEqual([])
    expect(ratesBeside({ ...run, backend: 'cuda' }, {})).toEqual([])
    expect(predict(run, {}, () => of)).toMatch(/--validate/)
  })

  it('says why there is no prediction for a checkpoint that no model describes', () => {
    const unknown = () => {
      throw new Error('no model of that name')
    }
    expect(predict({ ...run, readings: same }, {}, unknown)).toBe('no model of that name')
  })

  it('adds up the work of processors that do everything, by strategy', () => {
    const bytes = total(of)
    const work = {
      broadcast: bytes / 10e9 + bytes / 10e9 + (2 * kept) / 5e9,
      p2p: bytes / 2e9 + bytes / 10e9 + (2 * kept) / 5e9,
      direct: (2 * kept) / 5e9,
    }
    for (const [strategy, seconds] of Object.entries(work)) {
      const { totalMs, bottleneck } = predicted({ ...run, strategy, readings: same })
      expect(totalMs / 1000 / (seconds / 2 + 0.02), strategy).toBeCloseTo(1, 3)
      expect(bottleneck).toBe('processors')
    }
  })

  it('holds each sample against what was read beside it', () => {
    const slow = { ...reading, copyRate: 5e9, reloadRate: 2.5e9, updateSeconds: 0.04 }
    const fast = predicted({ ...run, readings: same }).totalMs
    const samples = [fast, 2 * fast, 1.5 * fast]
    const readings = [
      [reading, reading],
      [slow, slow],
      [reading, slow],
    ] as const
    const found = predicted({ ...run, updateMs: { median: 1.5 * fast, min: fast, max: 2 * fast, samples }, readings })
    for (const error of found.errors) expect(error).toBeCloseTo(0, 6)
    expect(found.totalMs / fast).toBeCloseTo(1.5, 6)
  })

  it('takes host links of GPUs as measured and nothing from the run itself', () => {
    const gpus = { names: ['NVIDIA H200'], h2dEachBytesPerSecond: [50e9, 40e9] }
    const onGpu = { ...run, backend: 'cuda' as const, variant: 'kept' }
    const [rates] = ratesBeside(onGpu, { gpus })
    expect(rates).toMatchObject({ h2dRate: 40e9, tensorSeconds: h200.tensorSeconds, copyRate: h200.copyRate })
    const [released] = ratesBeside({ ...onGpu, variant: 'released' }, { gpus })
    expect(released!.updateSeconds - rates!.updateSeconds).toBeCloseTo(h200.communicatorSeconds)
  })
})
