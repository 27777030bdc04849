import type { UpdateReport } from '@ckpt/core'
import { describe, expect, it } from 'vitest'
import { engineRun, howOf, peerRuns, type EngineSubject, type OwnSample, type PeerSample } from './run.ts'
import type { OwnTurn, PeerTurn } from './turns.ts'

const subject: EngineSubject = {
  ...{ model: 'qwen3-moe', title: 'Qwen3-MoE (BF16)', scale: '12 layers', backend: 'cuda', engine: 'vllm', engineVersion: '1' },
  ...{ quantization: 'none', ranks: 2, limit: { bytesPerSecond: 100e9, updateMs: 100, how: 'links' } },
}
const bytes = { needed: 6e9, h2d: 6e9, forwarded: 0, opaque: 1e9, nodeNeeded: 9e9 }

function reports(totalMs: number, more: Partial<UpdateReport> = {}): UpdateReport[] {
  return [0, 1].map((rank) => ({
    ...{ checkpoint: 'c', version: 'v', epoch: 1, rank, strategy: 'direct', mode: 'serial', modeReason: '' },
    ...{
      bytes: 10e9,
      tensors: 4,
      buckets: 0,
      ringBytes: 0,
      bucketBytes: 0,
      verified: 'bytes',
      digest: 'd',
      h2dBytes: 0,
      how: 'direct',
    },
    verification: { level: 'bytes', bytes: 1, routes: 1, milliseconds: 1 },
    ...{ broadcastBytes: 0, totalMs, startedUs: 0, spans: new Float64Array(), direct: { opaque: [], bytes } },
    steps: { beginMs: 1, planMs: 2, attachMs: 3 + rank, pipelineMs: totalMs - 10, commitMs: 4 },
    stages: { h2dMs: 90 - rank, broadcastMs: 0, reloadMs: 0, idleMs: 0 },
    ...more,
  }))
}

function own(
  turn: Partial<OwnTurn>,
  updateMs: number,
  more: Partial<OwnSample & { gap: number; report: Partial<UpdateReport> }> = {},
): OwnSample {
  const step = { registerMs: 200, gatherMetasMs: 5, updateMs, reports: reports(updateMs, more.report) }
  return {
    turn: { system: 'ours', kind: 'timed', checkpoint: 'A', ...turn },
    step: { ...step, ...(more.gap !== undefined && { longestTokenGapMs: more.gap }) },
    answersEqual: more.answersEqual ?? true,
  }
}

function peer(turn: Partial<PeerTurn>, updateMs: number, answersEqual = true): PeerSample {
  const step = { registerMs: 1000, gatherMetasMs: 600, updateMs, peakDeviceBytes: updateMs }
  return { turn: { system: 'peer', kind: 'timed', checkpoint: 'B', beside: 'auto', ...turn }, step, answersEqual }
}

const samples = [
  own({ kind: 'first' }, 5000, { report: { strategy: 'broadcast', verified: 'sources' } }),
  own({ beside: 'auto' }, 150),
  own({ beside: 'auto' }, 130),
  own({ beside: 'kept' }, 120),
  own({ kind: 'streamed' }, 140, { gap: 170 }),
  own({ kind: 'streamed' }, 160, { gap: 190 }),
  // The stream was over before this one was.
  own({ kind: 'streamed' }, 900),
]
const more = { peakHostBytes: 7, isFirst: true }

describe('engineRun', () => {
  it('has the fields of the bench, with the median of the timed updates alone', () => {
    expect(engineRun(subject, 'auto', samples, more)).toMatchObject({
      ...{ engine: 'vllm', engineVersion: '1', quantization: 'none', strategy: 'direct', requested: 'auto', source: 'files' },
      ...{
        freshRegistration: true,
        ranks: 2,
        bytes: 10e9,
        tensors: 4,
        registerMs: 200,
        gatherMetasMs: 5,
        firstUpdateMs: 5000,
        firstGatherMetasMs: 5,
      },
      updateMs: { median: 130, min: 120, max: 150, samples: [150, 130, 120] },
      stepMs: { median: 335 },
      stages: { h2dMs: 90, broadcastMs: 0, reloadMs: 0, idleMs: 0 },
      steps: { attachMs: 4, pipelineMs: 120 },
      pause: { longestTokenGapMs: 180, gaps: [170, 190], updateMs: { median: 150 } },
      how: { direct: 9e9, replayed: 0, staged: 0, opaque: 1e9 },
      ...{ ratioToLimit: 1.3, verified: 'bytes', answersEqual: true, peakHostBytes: 7 },
    })
  })

  it('is not right if one answer differed, whenever that was', () => {
    const wrong = own({ kind: 'streamed' }, 140, { gap: 170, answersEqual: false })
    expect(engineRun(subject, 'auto', [...samples, wrong], more).answersEqual).toBe(false)
  })

  it('says why updates were not direct, and leaves out what was not measured', () => {
    const staged = { strategy: 'broadcast', direct: { opaque: [], fallback: 'no recording yet' } } as const
    const run = engineRun(subject, 'auto', [own({}, 400, { report: staged })], { ...more, isFirst: false })
    expect(run).toMatchObject({ fallback: 'no recording yet', how: { staged: 10e9, direct: 0 } })
    expect(Object.keys(run)).not.toEqual(expect.arrayContaining(['pause']))
    expect(Object.keys(run)).not.toEqual(expect.arrayContaining(['firstUpdateMs']))
  })
})

describe('howOf', () => {
  const replayed = (tensors: number) => reports(1, { strategy: 'broadcast', direct: { opaque: [], replayed: tensors } })

  it('tells bytes that were replayed, and nothing of a mixture that reports do not tell', () => {
    expect(howOf(replayed(4))).toEqual({ direct: 0, replayed: 10e9, staged: 0, opaque: 0 })
    expect(howOf(replayed(3))).toBeUndefined()
    expect(howOf(reports(1, { strategy: 'broadcast' }))).toMatchObject({ staged: 10e9, replayed: 0 })
  })
})

describe('peerRuns', () => {
  const theirs = [peer({ kind: 'first' }, 2000), peer({}, 1200), peer({}, 1300), peer({ beside: 'kept' }, 800)]

  it('compares updates that took turns with the same setting', () => {
    const found = peerRuns(subject, '0.4.2', 'auto', samples, theirs)
    expect(found.map(({ what, oursMs, peerMs }) => [what, oursMs.median, peerMs.median])).toEqual([
      ['update, as it comes (auto_pg=True)', 140, 1250],
      ['registration, as it comes (auto_pg=True)', 200, 1000],
      ['gatherMetas, as it comes (auto_pg=True)', 5, 600],
      ['whole step, as it comes (auto_pg=True)', 345, 2850],
      ['first update, as it comes (auto_pg=True)', 5000, 2000],
    ])
    expect(found[0]).toMatchObject({ engine: 'vllm', ratioToLimit: 12.5, answersEqual: true, peakDeviceBytes: 1300 })
    const [kept] = peerRuns(subject, '0.4.2', 'kept', samples, theirs)
    expect(kept).toMatchObject({ oursMs: { samples: [120] }, peerMs: { samples: [800] } })
  })

  it('compares nothing where the peer failed before its first sample', () => {
    expect(peerRuns(subject, '0.4.2', 'kept', samples, [peer({ kind: 'first', beside: 'kept' }, 2000)])).toEqual([])
  })

  it('says when an answer after one of its updates was wrong', () => {
    expect(peerRuns(subject, '0.4.2', 'auto', samples, [...theirs, peer({}, 1250, false)])[0]!.answersEqual).toBe(false)
  })
})
