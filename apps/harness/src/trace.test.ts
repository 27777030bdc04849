import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { STAGES, timelineOf, writeTrace, type Timeline, type TraceEvent, type UpdateReport } from '@ckpt/core'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { beforeAll, describe, expect, it } from 'vitest'
import { Cluster, generateCheckpoint } from '@ckpt/testing'

const MIB = 2 ** 20

type Interval = readonly [start: number, end: number]

const busy = (intervals: readonly Interval[]) => intervals.reduce((sum, [start, end]) => sum + end - start, 0)

/** Time covered by at least one of the intervals. */
function union(intervals: readonly Interval[]): number {
  let covered = 0
  let until = -Infinity
  for (const [start, end] of [...intervals].sort((a, b) => a[0] - b[0])) {
    covered += Math.max(0, end - Math.max(start, until))
    until = Math.max(until, end)
  }
  return covered
}

describe('the timelines of an update over two ranks', () => {
  let reports: UpdateReport[]
  let timelines: Timeline[]
  const updates: Timeline[][] = []
  beforeAll(async () => {
    using checkpoint = await generateCheckpoint(createHost(), model('deepseek-v3.1'), 256 * MIB, 3n, 'trace')
    await using cluster = await Cluster.start({
      ranks: 2,
      keepAlive: true,
      engine: { kind: 'typescript', checkpoint: checkpoint.directory },
    })
    await cluster.register('traced', checkpoint.directory)
    // A ring of a few buckets: no stage can get far ahead of the others.
    const options = { bucketBytes: 4 * MIB, ringBytes: 64 * MIB }
    await cluster.update('traced', options) // starts what is kept
    for (let i = 0; i < 3; i++) {
      reports = await cluster.update('traced', options)
      timelines = reports.map((report) => timelineOf(report))
      updates.push(timelines)
    }
  })

  const ofStage = (timeline: Timeline, stage: (typeof STAGES)[number]) =>
    timeline.spans.filter(([index]) => STAGES[index] === stage)
  const buckets = (timeline: Timeline, stage: (typeof STAGES)[number]) =>
    ofStage(timeline, stage).map(([, bucket, count]) => {
      expect(count).toBe(1)
      return bucket
    })

  it('name every bucket once a stage, H2D on its owner alone and broadcast on the other rank', () => {
    const all = Array.from({ length: reports[0]!.buckets }, (_, bucket) => bucket)
    const ascending = (list: readonly number[]) => [...list].sort((a, b) => a - b)
    const owned = timelines.map((timeline) => buckets(timeline, 'H2D'))
    expect(ascending(owned.flat())).toEqual(all)
    expect(owned.every((own) => own.length > 0)).toBe(true)
    for (const [rank, timeline] of timelines.entries()) {
      expect(ascending(buckets(timeline, 'broadcast'))).toEqual(ascending(owned[1 - rank]!))
      expect(ascending(buckets(timeline, 'reload'))).toEqual(all)
    }
    // Neighbours in a bucket are moved together with the padding between them.
    for (const stage of ['h2dBytes', 'broadcastBytes'] as const) {
      const padding = reports.reduce((sum, report) => sum + report[stage], 0) - reports[0]!.bytes
      expect(padding).toBeGreaterThanOrEqual(0)
      expect(padding).toBeLessThan(256 * reports[0]!.tensors)
    }
  })

  it('lie inside the pipeline step, and one after the other within a stage', () => {
    for (const { steps, spans } of timelines) {
      const [, from, to] = steps.find(([name]) => name === 'pipeline')!
      for (const [index, [stage, , , start, end]] of spans.entries()) {
        expect(start).toBeGreaterThanOrEqual(from)
        expect(end).toBeGreaterThanOrEqual(start)
        expect(end).toBeLessThanOrEqual(to)
        const before = spans[index - 1]
        if (before?.[0] === stage) expect(start).toBeGreaterThanOrEqual(before[4])
      }
    }
  })

  it('overlap: the three stages on each rank, and each two of them', () => {
    const overlap = (intervals: readonly Interval[]) => busy(intervals) - union(intervals)
    const pairs = { 'H2D, broadcast': 0, 'broadcast, reload': 0, 'H2D, reload': 0 }
    for (const timeline of updates.flat()) {
      const [h2d, broadcast, reload] = STAGES.map((stage) =>
        ofStage(timeline, stage).map(([, , , start, end]): Interval => [start, end]),
      ) as [Interval[], Interval[], Interval[]]
      expect(overlap([...h2d, ...broadcast, ...reload])).toBeGreaterThan(0)
      pairs['H2D, broadcast'] += overlap([...h2d, ...broadcast])
      pairs['broadcast, reload'] += overlap([...broadcast, ...reload])
      pairs['H2D, reload'] += overlap([...h2d, ...reload])
    }
    // In total: on two busy cores the threads of one pair may not overlap in a single update.
    for (const [pair, microseconds] of Object.entries(pairs)) expect(microseconds, pair).toBeGreaterThan(0)
  })

  it('share a clock: no rank receives a bucket before its owner began to copy it', () => {
    const start = (timeline: Timeline, stage: (typeof STAGES)[number]) =>
      new Map(ofStage(timeline, stage).map(([, bucket, , from]) => [bucket, timeline.startedUs + from]))
    for (const [rank, timeline] of timelines.entries()) {
      const copied = start(timelines[1 - rank]!, 'H2D')
      // Wall clocks of two processes and the start of a pipeline are known to well within this.
      for (const [bucket, at] of start(timeline, 'broadcast')) expect(at).toBeGreaterThan(copied.get(bucket)! - 20_000)
    }
  })

  it('become one trace with a process a rank', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'ckpt-trace-test-'))
    try {
      const path = join(directory, 'trace.json')
      await writeTrace(path, timelines)
      const { traceEvents } = JSON.parse(readFileSync(path, 'utf8')) as { traceEvents: TraceEvent[] }
      expect(new Set(traceEvents.map(({ pid }) => pid))).toEqual(new Set([0, 1]))
      const complete = traceEvents.filter(({ ph }) => ph === 'X')
      expect(complete.length).toBe(timelines.reduce((sum, { spans }) => sum + spans.length + 6, 0))
      expect(Math.min(...complete.map(({ ts }) => ts!))).toBe(0)
      expect(complete.every(({ dur }) => dur! >= 0)).toBe(true)
    } finally {
      rmSync(directory, { recursive: true, force: true })
    }
  })
})
