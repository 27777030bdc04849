import type { Timeline, TimelineSpan } from '@ckpt/core'
import type { BenchResult, EngineRun, ReferenceRun } from '../result.ts'

const samples = (...values: number[]) => ({
  median: values[Math.floor(values.length / 2)]!,
  min: Math.min(...values),
  max: Math.max(...values),
  samples: values,
})

/**
 * Returns the timeline of one rank whose stages alternate on `buckets` buckets, a microsecond per stage and bucket and one of
 * pause.
 */
function timeline(rank: number, buckets: number): Timeline {
  const spans = [0, 1, 2].flatMap((stage) =>
    Array.from({ length: buckets }, (_, bucket): TimelineSpan => {
      const start = 3000 + 2 * bucket + stage
      return [stage, bucket, 1, start, start + 1]
    }),
  )
  const end = 3000 + 2 * buckets + 3
  return {
    rank,
    checkpoint: 'bench',
    version: 'v',
    epoch: 1,
    strategy: 'broadcast',
    mode: 'pipelined',
    bytes: 1e9,
    startedUs: 1_700_000_000_000_000 + 150 * rank,
    steps: [
      ['begin', 0, 1000],
      ['plan', 1000, 1200],
      ['attach', 1200, 3000],
      ['pipeline', 3000, end],
      ['commit', end, end + 900],
    ],
    spans,
    measuredSpans: spans.length,
  }
}

function run(model: string, title: string, buckets: number): ReferenceRun {
  return {
    model,
    title,
    scale: '2 of 46 layers & <half> the "width"',
    backend: 'host',
    strategy: 'broadcast',
    ranks: 2,
    bytes: 1e9,
    tensors: 1234,
    gatherMetasMs: 12.5,
    registerMs: 800,
    freshRegistration: true,
    updateMs: samples(400, 420, 520),
    stages: { h2dMs: 100, broadcastMs: 120, reloadMs: 300, idleMs: 20 },
    unverifiedMs: samples(390, 400, 410),
    verificationCost: 0.05,
    peakDeviceBytes: 2e8,
    peakHostBytes: 3e8,
    limit: {
      bytesPerSecond: 8e9,
      updateMs: 375,
      how: '3000000000 bytes that the stages must move, at the copy rate of this run',
    },
    ratioToLimit: 1.12,
    verified: 'bytes',
    parametersEqual: true,
    parameterBytes: 1e9,
    digest: 'abc',
    ringBytes: 2e8,
    bucketBytes: 2e7,
    mode: 'pipelined: the ring holds 10 buckets',
    moved: { h2dBytes: 1e9, broadcastBytes: 1e9, reloadBytes: 1.02e9 },
    timelines: [timeline(0, buckets), timeline(1, buckets)],
  }
}

/** Returns a result with every section filled; `buckets` per run. */
export function resultFixture(buckets = 40): Omit<BenchResult, 'runs'> & { readonly runs: readonly ReferenceRun[] } {
  return {
    schema: 2,
    startedAt: '2026-01-02T03:04:05.678Z',
    machine: { cpu: 'Processor <X>', cores: 2, memoryBytes: 32e9, os: 'Linux 6', node: 'v20.17.0' },
    ceilings: { copyBytesPerSecond: 8e9, readBytesPerSecond: 4e9 },
    runs: [run('glm-4.5-air', 'GLM-4.5-Air (BF16)', buckets), run('kimi-k2', 'Kimi-K2-Instruct (FP8)', buckets)],
    gatherMetas: { model: 'kimi-k2', ranks: 4, tensors: 139_644, firstMs: 250, unchangedMs: samples(7, 8, 9) },
    registration: {
      bytes: 2e9,
      registerMs: samples(500, 510, 530),
      freshMs: samples(900, 910, 930),
      limitMs: 450,
      ofCeiling: 0.88,
      freshOfCeiling: 0.49,
    },
    peers: [
      {
        peer: 'checkpoint-engine',
        version: '0.4.1',
        what: 'bucket generation',
        model: 'kimi-k2',
        ranks: 256,
        oursMs: samples(50, 60, 70),
        peerMs: samples(2900, 3000, 3100),
        ratio: 50,
      },
    ],
    skipped: [{ what: 'the cuda backend', reason: 'no NVIDIA GPU' }],
  }
}

/** Returns a run of a real engine. */
export function engineRunFixture(): EngineRun {
  const stages = { h2dMs: 140, broadcastMs: 0, reloadMs: 0, idleMs: 0 }
  return {
    ...{ model: 'qwen3-moe', title: 'Qwen3-MoE (BF16)', scale: '12 layers of 128 experts', backend: 'cuda', ranks: 2 },
    ...{
      engine: 'vllm',
      engineVersion: '0.26.0',
      quantization: 'none',
      requested: 'auto',
      strategy: 'direct',
      source: 'files',
    },
    ...{ bytes: 15e9, tensors: 4719, registerMs: 240, gatherMetasMs: 4, freshRegistration: true, firstUpdateMs: 5500 },
    updateMs: samples(200, 210, 230),
    stages,
    pause: { longestTokenGapMs: 250, gaps: [240, 250, 260], updateMs: samples(205, 215, 235) },
    how: { direct: 14e9, replayed: 0, staged: 0, opaque: 1e9 },
    ...{ peakDeviceBytes: 0, peakHostBytes: 3e8, ratioToLimit: 1.5, verified: 'bytes', answersEqual: true, digest: 'd' },
    limit: { bytesPerSecond: 107e9, updateMs: 140, how: '15000000000 bytes over the host links of 2 GPUs' },
    updates: [],
  }
}
