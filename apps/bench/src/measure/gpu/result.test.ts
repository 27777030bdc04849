import type { UpdateReport } from '@ckpt/core'
import { describe, expect, it } from 'vitest'
import { summarize } from '../../statistics.ts'
import { comparisons, gpuRun, type GpuSubject, type OwnFacts, type PeerFacts } from './result.ts'

const subject: GpuSubject = {
  model: { id: 'm', title: 'M' },
  checkpoint: { scale: 'whole' },
  ranks: 2,
  gpus: { h2dBytesPerSecond: 100e9 },
  strategy: 'broadcast',
}

const own: OwnFacts = {
  registerMs: 1500,
  registerInPlaceMs: 2000,
  gatherMetasMs: 100,
  gatherMetasAgainMs: summarize([2]),
  firstAttachMs: 400,
  parametersEqual: true,
  parameterBytes: 123,
  registrationsMs: [700, 900, 800],
}

const GB40 = 40e9

/** Reports of both ranks of one update: rank 1 is slower and broadcasts longer. */
function update(totalMs: number, more: Partial<UpdateReport> = {}): UpdateReport[] {
  return [0, 1].map((rank) => ({
    checkpoint: 'bench',
    version: 'bench',
    epoch: 1,
    rank,
    strategy: 'broadcast',
    how: 'broadcast',
    mode: 'pipelined',
    modeReason: 'room enough',
    bytes: GB40,
    tensors: 10,
    buckets: 4,
    ringBytes: 300,
    bucketBytes: 100,
    verified: 'bytes',
    verification: { level: 'bytes', bytes: 1, routes: 1, milliseconds: 1 },
    digest: 'd',
    h2dBytes: GB40 / 2,
    broadcastBytes: GB40,
    totalMs: rank === 1 ? totalMs : totalMs - 5,
    startedUs: 1_700_000_000_000_000,
    steps: { beginMs: 1, planMs: 2, attachMs: 3, pipelineMs: totalMs - 10, commitMs: 4 },
    stages: { h2dMs: 380 - rank, broadcastMs: 100 + rank, reloadMs: totalMs, idleMs: 0 },
    spans: Float64Array.from([0, 0, 0, 1]),
    ...more,
  }))
}

const rest = { variant: 'kept', unverifiedMs: summarize([400]), peakHostBytes: 1, peakDeviceBytes: 2 } as const

describe('gpuRun', () => {
  it('takes the slower rank, the median update and the limit of all bytes over all links', () => {
    const run = gpuRun(subject, own, [update(600), update(440), update(420)], rest)
    expect(run.updateMs).toMatchObject({ median: 440, min: 420, max: 600 })
    expect(run.limit.updateMs).toBe(400)
    expect(run.ratioToLimit).toBeCloseTo(1.1)
    expect(run.verificationCost).toBeCloseTo(0.1)
    expect(run).toMatchObject({ freshRegistration: true, registerMs: 800 })
    expect(run.stages).toEqual({ h2dMs: 380, broadcastMs: 101, reloadMs: 440, idleMs: 0 })
    expect(run.timelines?.map(({ rank }) => rank)).toEqual([0, 1])
  })

  it('holds a direct update against what the engine workers need, opaque tensors included', () => {
    const bytes = { needed: 15e9, h2d: 15e9, forwarded: 0, nodeNeeded: 30e9, opaque: 1e9 }
    const direct = { routes: 1, copies: 1, how: '', bytes } as unknown as NonNullable<UpdateReport['direct']>
    const run = gpuRun({ ...subject, strategy: 'direct' }, own, [update(341, { direct })], rest)
    expect(run.limit.updateMs).toBe(310)
    expect(run.ratioToLimit).toBeCloseTo(1.1)
    expect(run.direct).toMatchObject({ neededBytes: 30e9, uniqueBytes: 30e9, opaqueBytes: 1e9 })
  })

  it('says where the parameters were not right after any update, and no more than all samples were verified as', () => {
    expect(gpuRun(subject, { ...own, parametersEqual: false }, [update(440)], rest).parametersEqual).toBe(false)
    const run = gpuRun(subject, own, [update(440), update(430, { verified: 'sources' })], rest)
    expect(run.verified).toBe('sources')
  })
})

describe('comparisons', () => {
  const peer: PeerFacts = {
    version: '0.4.2',
    registerMs: 9000,
    registerInPlaceMs: 1000,
    gatherMetasMs: 1000,
    gatherMetasAgainMs: summarize([160]),
    parametersEqual: true,
    asItComes: [1600, 1700].map((milliseconds) => ({ milliseconds, peakDeviceBytes: milliseconds })),
    atItsBest: [1200].map((milliseconds) => ({ milliseconds, peakDeviceBytes: 3 })),
    bestBucket: 1,
  }

  it('pairs the updates that took turns', () => {
    const kept = [update(400), update(425), update(480)]
    const found = comparisons(subject, own, peer, kept, [update(550)])
    expect(found.map(({ what, ratio }) => [what, Number(ratio.toFixed(2))])).toEqual([
      ['update, as it comes (auto_pg=True)', 4],
      ['update, as it comes, ours releasing everything', 3],
      ['update, at its best (auto_pg=False, 1 GiB buckets)', 2.5],
      ['registration with a copy', 6],
      ['registration in place', 0.5],
      ['first gatherMetas, communicator included', 2],
      ['gatherMetas again', 80],
    ])
    expect(found[0]).toMatchObject({
      ratioToLimit: 1650 / 400,
      peakDeviceBytes: 1700,
      parametersEqual: true,
      freshRegistration: false,
    })
  })

  it('says when the peer’s parameters differed', () => {
    const found = comparisons(subject, own, { ...peer, parametersEqual: false }, [update(400), update(400), update(400)], [])
    expect(found.map(({ parametersEqual }) => parametersEqual).slice(0, 2)).toEqual([false, false])
  })
})
