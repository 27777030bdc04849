import { STAGES, joinSpans, type Timeline } from '@ckpt/core'
import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import type { PeerRun, Run } from '../../result.ts'
import { runLabels } from '../labels.ts'
import { Markup } from './markup.ts'

const WIDTH = 1160
const TRACKS = ['update', ...STAGES]
const COLOURS = STAGES.map((stage) => `var(--${stage.toLowerCase()})`)

/** Renders marks of Plot as SVG, in a document without a browser. Coordinates finer than 0.01 px are truncated. */
function svg(label: string, options: object): Markup {
  // Both libraries' types need a browser's types, which are not available.
  const window: unknown = parseHTML('<!doctype html><html><body></body></html>')
  const { document } = window as { readonly document: unknown }
  const drawn: unknown = Plot.plot({ document, width: WIDTH, ariaLabel: label, ...options })
  const { outerHTML } = drawn as { readonly outerHTML: string }
  return new Markup(outerHTML.replace(/(\d+\.\d\d)\d+/g, '$1'))
}

/**
 * Draws each run's median over its limit, with its fastest and slowest sample, and below it those of peers. The line is the
 * limit.
 */
export function limitBars(runs: readonly Run[], peers: readonly PeerRun[]): Markup {
  const names = runLabels(runs)
  const own = runs.map((run, index) => ({
    label: names[index]!,
    ratio: run.ratioToLimit,
    min: run.updateMs.min / run.limit.updateMs,
    max: run.updateMs.max / run.limit.updateMs,
    fill: 'var(--ours)',
  }))
  const others = peers.flatMap(({ peer, version, what, model, peerMs, ratioToLimit }) => {
    if (ratioToLimit === undefined || own.length === 0) return []
    const limit = peerMs.median / ratioToLimit
    const label = `${peer} ${version}, ${model}: ${what.replace(/^update, /, '').replace(/ \(.*/, '')}`
    return { label, ratio: ratioToLimit, min: peerMs.min / limit, max: peerMs.max / limit, fill: 'var(--theirs)' }
  })
  const once = others.filter(({ label }, index) => others.findIndex((one) => one.label === label) === index)
  // The same samples of the peer may appear with several of ours.
  const rows = [...own, ...once.filter(({ label }) => !label.includes(', ours '))]
  const slowest = Math.max(1.2, ...rows.map(({ max }) => max))
  return svg('update time over the limit', {
    height: 70 + 30 * rows.length,
    marginTop: 24,
    marginBottom: 40,
    marginLeft: 12 + 6.2 * Math.max(...rows.map(({ label }) => label.length)),
    marginRight: 60,
    x: { label: 'update time / limit', domain: [0, slowest * 1.05], grid: true },
    y: { label: null, domain: rows.map(({ label }) => label), padding: 0.35, tickSize: 0 },
    marks: [
      Plot.barX(rows, { x: 'ratio', y: 'label', fill: 'fill' }),
      Plot.link(rows, { x1: 'min', x2: 'max', y: 'label', stroke: 'currentColor', strokeWidth: 1.5 }),
      Plot.tickX(rows, { x: 'min', y: 'label', stroke: 'currentColor', insetTop: 6, insetBottom: 6 }),
      Plot.tickX(rows, { x: 'max', y: 'label', stroke: 'currentColor', insetTop: 6, insetBottom: 6 }),
      Plot.text(rows, {
        x: 'max',
        y: 'label',
        text: ({ ratio }: { ratio: number }) => ratio.toFixed(2),
        dx: 8,
        textAnchor: 'start',
        fontWeight: 600,
        fontSize: 12,
      }),
      Plot.ruleX([1], { stroke: 'var(--limit)', strokeWidth: 2 }),
      Plot.text([1], { x: (value: number) => value, frameAnchor: 'top', dy: -14, text: () => 'limit', fill: 'var(--limit)' }),
    ],
  })
}

/**
 * Draws the times of each rank's stages: a row of tracks per rank, aligned by the ranks' wall clocks. At most `maxSpans` are
 * drawn.
 */
export function timelineChart(timelines: readonly Timeline[], maxSpans: number): Markup {
  const origin = Math.min(...timelines.map(({ startedUs }) => startedUs))
  const at = (timeline: Timeline, us: number) => (timeline.startedUs - origin + us) / 1000
  const share = Math.floor(maxSpans / timelines.length)
  const spans = timelines.flatMap((timeline) =>
    joinSpans(timeline.spans, share).map(([stage, , , start, end]) => ({
      rank: `rank ${timeline.rank}`,
      track: STAGES[stage]!,
      from: at(timeline, start),
      to: at(timeline, end),
    })),
  )
  const steps = timelines.flatMap((timeline) =>
    timeline.steps.map(([name, start, end], index) => ({
      rank: `rank ${timeline.rank}`,
      track: TRACKS[0]!,
      from: at(timeline, start),
      to: at(timeline, end),
      fill: index % 2 === 0 ? 'var(--step)' : 'var(--step-other)',
      title: `${name}: ${((end - start) / 1000).toFixed(2)} ms`,
      name,
    })),
  )
  const whole = Math.max(...steps.map(({ to }) => to))
  const place = { x1: 'from', x2: 'to', y: 'track', fy: 'rank' }
  const wide = steps.filter(({ from, to, name }) => ((to - from) / whole) * (WIDTH - 150) > 7 * name.length)
  return svg('stages of the last timed update by rank', {
    height: 64 + timelines.length * (TRACKS.length * 17 + 14),
    marginTop: 8,
    marginBottom: 40,
    marginLeft: 72,
    marginRight: 60,
    x: { label: 'milliseconds since the first rank began', domain: [0, whole], grid: true },
    y: { label: null, domain: TRACKS, padding: 0.15, tickSize: 0 },
    fy: { label: null, padding: 0.12 },
    color: { domain: STAGES, range: COLOURS },
    marks: [
      Plot.barX(steps, { ...place, fill: 'fill', title: 'title' }),
      Plot.text(wide, {
        ...{ y: 'track', fy: 'rank', text: 'name', fontSize: 10 },
        x: ({ from, to }: { from: number; to: number }) => (from + to) / 2,
      }),
      Plot.barX(spans, { ...place, fill: 'track' }),
    ],
  })
}
