import type { UpdateReport } from './report.ts'

/** Stages of the pipeline, by the numbers that spans carry. */
export const STAGES = ['H2D', 'broadcast', 'reload', 'pull'] as const

/**
 * [stage, first bucket, buckets, start, end]: work of one stage on a number of buckets, in whole microseconds since the
 * timeline's `startedUs`.
 */
export type TimelineSpan = readonly [stage: number, bucket: number, buckets: number, start: number, end: number]

/** One step of an update: name, start and end in whole microseconds since the timeline's `startedUs`. */
export type TimelineStep = readonly [name: string, start: number, end: number]

/** Times of one rank's work in one update: small enough to be sent and stored, plain enough for MessagePack and JSON. */
export interface Timeline {
  readonly rank: number
  readonly checkpoint: string
  readonly version: string
  readonly epoch: number
  readonly strategy: string
  readonly mode: string
  readonly bytes: number
  /** Wall clock at the start of the steps, in microseconds since 1970. */
  readonly startedUs: number
  readonly steps: readonly TimelineStep[]
  /** Sorted by stage, then by start; spans of one stage do not overlap. */
  readonly spans: readonly TimelineSpan[]
  /** Number of spans before neighbours were joined. */
  readonly measuredSpans: number
}

export interface TimelineOptions {
  /** Maximum number of spans to keep, by {@link joinSpans} (default: all). */
  readonly maxSpans?: number
}

/**
 * Returns a report's timeline. A stage works on one bucket after another. If spans of one stage overlap (a bucket waits in the
 * worker's queue while an earlier one is loaded), the later one starts when the earlier ends. Spans of a group that moved
 * together are one span.
 */
export function timelineOf(report: UpdateReport, options: TimelineOptions = {}): Timeline {
  const { rank, checkpoint, version, epoch, strategy, mode, bytes, startedUs } = report
  const steps = stepsOf(report)
  const offset = steps.find(([name]) => name === 'pipeline')![1]
  const measured = STAGES.flatMap((_, stage) => stageSpans(report, stage, offset))
  const spans = joinSpans(measured, options.maxSpans ?? measured.length)
  return { rank, checkpoint, version, epoch, strategy, mode, bytes, startedUs, steps, spans, measuredSpans: measured.length }
}

function stepsOf({ steps }: UpdateReport): TimelineStep[] {
  let at = 0
  return Object.entries(steps).map(([name, milliseconds]: [string, number]) => {
    const start = at
    at += milliseconds
    return [name.replace(/Ms$/, ''), Math.round(start * 1000), Math.round(at * 1000)]
  })
}

function stageSpans({ spans }: UpdateReport, stage: number, offset: number): TimelineSpan[] {
  const own: { bucket: number; start: number; end: number }[] = []
  for (let i = 0; i < spans.length; i += 4) {
    if (spans[i] !== stage) continue
    own.push({ bucket: spans[i + 1]!, start: spans[i + 2]!, end: spans[i + 3]! })
  }
  own.sort((a, b) => a.start - b.start || a.end - b.end || a.bucket - b.bucket)
  const result: TimelineSpan[] = []
  let last: (typeof own)[number] | undefined
  for (const span of own) {
    const before = result.at(-1)
    if (before && last?.start === span.start && last.end === span.end) {
      result[result.length - 1] = [stage, before[1], before[2] + 1, before[3], before[4]]
      continue
    }
    const start = Math.max(offset + Math.round(span.start * 1000), before?.[4] ?? -Infinity)
    result.push([stage, span.bucket, 1, start, Math.max(start, offset + Math.round(span.end * 1000))])
    last = span
  }
  return result
}

/**
 * Reduces one rank's timeline to at most `most` spans (but at least one per stage): over all stages, the neighbours with the
 * shortest pauses between them become one span.
 */
export function joinSpans(spans: readonly TimelineSpan[], most: number): TimelineSpan[] {
  const excess = spans.length - most
  if (excess <= 0) return [...spans]
  const pauses = spans
    .map((span, index) => ({ index, pause: span[3] - (spans[index - 1]?.[4] ?? 0) }))
    .filter(({ index }) => spans[index]![0] === spans[index - 1]?.[0])
    .sort((a, b) => a.pause - b.pause || a.index - b.index)
  const joins = new Set(pauses.slice(0, excess).map(({ index }) => index))
  const result: TimelineSpan[] = []
  spans.forEach((span, index) => {
    const before = result.at(-1)
    if (before && joins.has(index)) result[result.length - 1] = [span[0], before[1], before[2] + span[2], before[3], span[4]]
    else result.push(span)
  })
  return result
}
