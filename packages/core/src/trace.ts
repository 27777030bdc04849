import { writeFile } from 'node:fs/promises'
import { STAGES, type Timeline } from './timeline.ts'

/** One entry of Chrome's Trace Event Format: a complete event (`X`) or metadata (`M`). Times in microseconds. */
export interface TraceEvent {
  readonly name: string
  readonly ph: 'X' | 'M'
  readonly pid: number
  readonly tid: number
  readonly cat?: string
  readonly ts?: number
  readonly dur?: number
  readonly args: Readonly<Record<string, string | number>>
}

const STEPS_TRACK = 0

/**
 * Returns one rank's timeline as events of the Trace Event Format: the rank is the process; its threads are the update's steps
 * on top, then one per stage.
 *
 * @param originUs - wall clock of the trace's zero, in microseconds since 1970 (default: when this timeline began)
 */
export function traceEvents(timeline: Timeline, originUs = timeline.startedUs): TraceEvent[] {
  const { rank: pid, version, checkpoint, epoch, strategy, mode, bytes } = timeline
  const zero = timeline.startedUs - originUs
  const metadata = (tid: number, name: string, args: TraceEvent['args']): TraceEvent => ({ name, ph: 'M', pid, tid, args })
  const complete = (tid: number, cat: string, name: string, start: number, end: number, args: TraceEvent['args']) =>
    ({ name, cat, ph: 'X', ts: zero + start, dur: end - start, pid, tid, args }) satisfies TraceEvent
  const end = timeline.steps.at(-1)?.[2] ?? 0
  return [
    metadata(STEPS_TRACK, 'process_name', { name: `rank ${pid}` }),
    metadata(STEPS_TRACK, 'process_sort_index', { sort_index: pid }),
    ...['update', ...STAGES].flatMap((name, tid) => [
      metadata(tid, 'thread_name', { name }),
      metadata(tid, 'thread_sort_index', { sort_index: tid }),
    ]),
    complete(STEPS_TRACK, 'update', `update ${version}`, 0, end, { checkpoint, version, epoch, strategy, mode, bytes }),
    ...timeline.steps.map(([name, from, to]) => complete(STEPS_TRACK, 'step', name, from, to, {})),
    ...timeline.spans.map(([stage, bucket, buckets, from, to]) =>
      complete(1 + stage, STAGES[stage]!, buckets === 1 ? `bucket ${bucket}` : `${buckets} buckets`, from, to, {
        bucket,
        buckets,
      }),
    ),
  ]
}

/**
 * Writes one file that Perfetto (ui.perfetto.dev) and chrome://tracing open: the ranks of one update side by side, by their wall
 * clocks. Rejects with the file system's error.
 */
export async function writeTrace(path: string, timelines: readonly Timeline[]): Promise<void> {
  const originUs = timelines.reduce((least, { startedUs }) => Math.min(least, startedUs), Infinity)
  const events = timelines.flatMap((timeline) => traceEvents(timeline, originUs))
  const otherData = timelines.length === 0 ? {} : { startedAt: new Date(originUs / 1000).toISOString() }
  const rows = events.map((event) => JSON.stringify(event)).join(',\n')
  await writeFile(path, `{"displayTimeUnit":"ms","otherData":${JSON.stringify(otherData)},"traceEvents":[\n${rows}\n]}\n`)
}
