import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { UpdateReport } from './report.ts'
import { STAGES, joinSpans, timelineOf, type TimelineSpan } from './timeline.ts'
import { traceEvents } from './trace.ts'

function reportOf(spans: readonly (readonly [stage: number, bucket: number, start: number, end: number])[]): UpdateReport {
  return {
    checkpoint: 'step-1',
    version: 'v1',
    epoch: 3,
    rank: 1,
    strategy: 'broadcast',
    how: 'broadcast',
    mode: 'pipelined',
    modeReason: 'room enough',
    bytes: 1000,
    tensors: 4,
    buckets: 4,
    ringBytes: 300,
    bucketBytes: 100,
    verified: 'bytes',
    verification: { level: 'bytes', bytes: 1, routes: 1, milliseconds: 1 },
    digest: 'd',
    h2dBytes: 500,
    broadcastBytes: 500,
    totalMs: 20,
    startedUs: 1_700_000_000_000_000,
    steps: { beginMs: 1, planMs: 0.5, attachMs: 2.5, pipelineMs: 10, commitMs: 1 },
    stages: { h2dMs: 1, broadcastMs: 1, reloadMs: 1, idleMs: 0 },
    spans: Float64Array.from(spans.flat()),
  }
}

describe('timelineOf', () => {
  it('lays steps end to end and spans behind the pipeline step, in microseconds', () => {
    const { steps, spans } = timelineOf(
      reportOf([
        [1, 1, 0.5, 1.25],
        [0, 0, 0.125, 0.5],
      ]),
    )
    expect(steps).toEqual([
      ['begin', 0, 1000],
      ['plan', 1000, 1500],
      ['attach', 1500, 4000],
      ['pipeline', 4000, 14000],
      ['commit', 14000, 15000],
    ])
    expect(spans).toEqual([
      [0, 0, 1, 4125, 4500],
      [1, 1, 1, 4500, 5250],
    ])
  })

  it('starts a reload when the one before it ends, and makes one span of buckets that moved as a group', () => {
    const { spans } = timelineOf(
      reportOf([
        [1, 0, 0, 1],
        [1, 1, 0, 1],
        [1, 2, 1, 2],
        [2, 0, 1, 3],
        [2, 1, 1.5, 4],
      ]),
    )
    expect(spans).toEqual([
      [1, 0, 2, 4000, 5000],
      [1, 2, 1, 5000, 6000],
      [2, 0, 1, 5000, 7000],
      [2, 1, 1, 7000, 8000],
    ])
  })
})

/** Spans as `timelineOf` returns them: by stage, one after another. */
const anySpans = fc
  .array(fc.tuple(fc.nat(2), fc.nat(50), fc.integer({ min: 1, max: 50 })), { minLength: 1, maxLength: 60 })
  .map((pieces) =>
    STAGES.flatMap((_, stage) => {
      let at = 0
      return pieces
        .filter(([of]) => of === stage)
        .map(([, pause, length], bucket): TimelineSpan => {
          const start = at + pause
          at = start + length
          return [stage, bucket, 1, start, at]
        })
    }),
  )

describe('joinSpans', () => {
  it('keeps within the limit, covers every span and loses no bucket', () => {
    fc.assert(
      fc.property(anySpans, fc.integer({ min: 3, max: 80 }), (spans, most) => {
        const joined = joinSpans(spans, most)
        expect(joined.length).toBe(Math.min(spans.length, most))
        for (const [stage, bucket, , start, end] of spans) {
          const covering = joined.filter(([s, first, count]) => s === stage && first <= bucket && bucket < first + count)
          expect(covering.length).toBe(1)
          expect(covering[0]![3]).toBeLessThanOrEqual(start)
          expect(covering[0]![4]).toBeGreaterThanOrEqual(end)
        }
      }),
    )
  })

  it('keeps the longest pauses', () => {
    const spans: TimelineSpan[] = [
      [0, 0, 1, 0, 10],
      [0, 1, 1, 11, 20],
      [0, 2, 1, 90, 95],
      [0, 3, 1, 96, 99],
    ]
    expect(joinSpans(spans, 2)).toEqual([
      [0, 0, 2, 0, 20],
      [0, 2, 2, 90, 99],
    ])
    expect(joinSpans(spans, 9)).toEqual(spans)
  })
})

it('traceEvents gives a rank its process, a stage its thread, and times from the common origin', () => {
  const timeline = timelineOf(reportOf([[2, 7, 1, 3]]))
  const events = traceEvents(timeline, timeline.startedUs - 250)
  expect(new Set(events.map(({ pid }) => pid))).toEqual(new Set([1]))
  const threads = events.filter(({ name }) => name === 'thread_name').map(({ tid, args }) => [tid, args['name']])
  expect(threads).toEqual([
    [0, 'update'],
    [1, 'H2D'],
    [2, 'broadcast'],
    [3, 'reload'],
    [4, 'pull'],
  ])
  const complete = events.filter(({ ph }) => ph === 'X')
  expect(complete.map(({ tid, ts, dur }) => [tid, ts, dur])).toEqual([
    [0, 250, 15000],
    [0, 250, 1000],
    [0, 1250, 500],
    [0, 1750, 2500],
    [0, 4250, 10000],
    [0, 14250, 1000],
    [3, 5250, 2000],
  ])
  expect(complete.at(-1)).toMatchObject({ name: 'bucket 7', cat: 'reload', args: { bucket: 7, buckets: 1 } })
})
