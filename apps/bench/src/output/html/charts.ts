import { STAGES, joinSpans, type Timeline } from '@ckpt/core'
import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import type { PeerRun, Run } from '../../result.ts'
import { comparisonOf } from '../comparison.ts'
import { runLabels } from '../labels.ts'
import { Markup } from './markup.ts'

/** Widths in pixels of a chart's two drawings: that for a desktop, and that for a phone. */
const WIDTH = 1000
const NARROW = 360
const TRACKS = ['update', ...STAGES]
const COLOURS = STAGES.map((stage) => `var(--${stage.toLowerCase()})`)

/** Renders marks of Plot as SVG, in a document without a browser. Coordinates finer than 0.01 px are truncated. */
function svg(
  label: string,
  { className, ...options }: { readonly className: 'wide' | 'narrow' } & Record<string, unknown>,
): Markup {
  // Both libraries' types need a browser's types, which are not available.
  const window: unknown = parseHTML('<!doctype html><html><body></body></html>')
  const { document } = window as { readonly document: unknown }
  const width = className === 'wide' ? WIDTH : NARROW
  const drawn: unknown = Plot.plot({ document, width, ariaLabel: label, className: `plot-${className}`, ...options })
  const { outerHTML } = drawn as { readonly outerHTML: string }
  // A picture with a name is one thing to a screen reader; its texts repeat what tables have.
  const named = outerHTML.replace('<svg ', '<svg role="img" ')
  const marked = named.replace(/(<g [^>]*?)aria-label=/g, '$1data-mark=')
  return new Markup(marked.replace(/(\d+\.\d\d)\d+/g, '$1'))
}

interface Bar {
  readonly label: string
  readonly ratio: number
  readonly min: number
  readonly max: number
  readonly fill: string
}

/**
 * Draws each run's update over its limit, with the ratios nearest to and farthest from it, and below it those of peers. The
 * line is the limit. Drawn twice: for wide and for narrow pages.
 */
export function limitBars(runs: readonly Run[], peers: readonly PeerRun[]): Markup {
  const names = runLabels(runs)
  const own = runs.map((run, index): Bar => {
    const { ratio, min, max } = comparisonOf(run)
    return { label: names[index]!, ratio, min, max, fill: 'var(--ours)' }
  })
  const others = peers.flatMap(({ peer, version, what, model, peerMs, ratioToLimit }): Bar[] => {
    if (ratioToLimit === undefined || own.length === 0) return []
    const limit = peerMs.median / ratioToLimit
    const label = `${peer} ${version}, ${model}: ${what.replace(/^update, /, '').replace(/ \(.*/, '')}`
    return [{ label, ratio: ratioToLimit, min: peerMs.min / limit, max: peerMs.max / limit, fill: 'var(--theirs)' }]
  })
  const once = others.filter(({ label }, index) => others.findIndex((one) => one.label === label) === index)
  // The same samples of the peer may appear with several of ours.
  const rows = [...own, ...once.filter(({ label }) => !label.includes(', ours '))]
  return new Markup(`${barChart(rows, 'wide').html}${barChart(rows, 'narrow').html}`)
}

function barChart(rows: readonly Bar[], className: 'wide' | 'narrow'): Markup {
  const slowest = Math.max(1.2, ...rows.map(({ max }) => max))
  const longest = Math.max(...rows.map(({ label }) => label.length))
  // Labels are beside their bars, or above them where a page has no room for that.
  const beside = className === 'wide'
  const bar = beside ? {} : { insetTop: 18 }
  const whisker = { stroke: 'currentColor', insetTop: beside ? 6 : 21, insetBottom: beside ? 6 : 3 }
  const above = Plot.text(rows, {
    ...{ x: 0, y: 'label', text: 'label', textAnchor: 'start', lineAnchor: 'bottom', dy: -7, fontSize: 11 },
    ...{ lineWidth: 28, textOverflow: 'ellipsis' },
  })
  return svg('update time over the limit', {
    className,
    height: 70 + (beside ? 30 : 44) * rows.length,
    marginTop: 24,
    marginBottom: 40,
    marginLeft: beside ? 12 + 6.2 * longest : 8,
    marginRight: beside ? 60 : 40,
    x: { label: 'update time / limit', domain: [0, slowest * 1.05], grid: true, ...(!beside && { ticks: 5 }) },
    y: {
      label: null,
      domain: rows.map(({ label }) => label),
      padding: beside ? 0.35 : 0.1,
      ...(beside ? { tickSize: 0 } : { axis: null }),
    },
    marks: [
      Plot.barX(rows, { x: 'ratio', y: 'label', fill: 'fill', ...bar }),
      Plot.link(rows, { x1: 'min', x2: 'max', y: 'label', stroke: 'currentColor', strokeWidth: 1.5, dy: beside ? 0 : 9 }),
      Plot.tickX(rows, { x: 'min', y: 'label', ...whisker }),
      Plot.tickX(rows, { x: 'max', y: 'label', ...whisker }),
      Plot.text(rows, {
        x: 'max',
        y: 'label',
        text: ({ ratio }: { ratio: number }) => ratio.toFixed(2),
        dx: 8,
        dy: beside ? 0 : 9,
        textAnchor: 'start',
        fontWeight: 600,
        fontSize: 12,
      }),
      Plot.ruleX([1], { stroke: 'var(--limit)', strokeWidth: 2 }),
      Plot.text([1], { x: (value: number) => value, frameAnchor: 'top', dy: -14, text: () => 'limit', fill: 'var(--limit)' }),
      ...(beside ? [] : [above]),
    ],
  })
}

/**
 * Draws the times of each rank's stages: a row of tracks per rank, aligned by the ranks' wall clocks. At most `maxSpans` are
 * drawn, for a narrow page as many as its pixels can show. A stage that no rank has gets no track.
 */
export function timelineCharts(timelines: readonly Timeline[], maxSpans: number): Markup {
  const few = Math.min(maxSpans, NARROW)
  return new Markup(`${timelineChart(timelines, maxSpans, 'wide').html}${timelineChart(timelines, few, 'narrow').html}`)
}

function timelineChart(timelines: readonly Timeline[], maxSpans: number, className: 'wide' | 'narrow'): Markup {
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
  const tracks = TRACKS.filter((track) => track === TRACKS[0] || spans.some((span) => span.track === track))
  const [left, right, ranksAbove] = className === 'wide' ? [72, 60, false] : [70, 8, true]
  const room = (className === 'wide' ? WIDTH : NARROW) - left - right
  const rankHeight = tracks.length * 17 + (ranksAbove ? 32 : 14)
  const place = { x1: 'from', x2: 'to', y: 'track', fy: 'rank' }
  const wide = steps.filter(({ from, to, name }) => ((to - from) / whole) * room > 7 * name.length)
  const labels = timelines.map(({ rank }) => ({ rank: `rank ${rank}` }))
  return svg('stages of the last timed update by rank', {
    className,
    height: 64 + timelines.length * rankHeight,
    marginTop: ranksAbove ? 18 : 8,
    marginBottom: 40,
    marginLeft: left,
    marginRight: right,
    x: { label: 'milliseconds since the first rank began', domain: [0, whole], grid: true, ...(ranksAbove && { ticks: 4 }) },
    y: { label: null, domain: tracks, padding: 0.15, tickSize: 0 },
    fy: { label: null, padding: ranksAbove ? 0.3 : 0.12, ...(ranksAbove && { axis: null }) },
    color: { domain: STAGES, range: COLOURS },
    marks: [
      Plot.barX(steps, { ...place, fill: 'fill', title: 'title' }),
      Plot.text(wide, {
        ...{ y: 'track', fy: 'rank', text: 'name', fontSize: 10 },
        x: ({ from, to }: { from: number; to: number }) => (from + to) / 2,
      }),
      Plot.barX(spans, { ...place, fill: 'track' }),
      ...(ranksAbove
        ? [Plot.text(labels, { fy: 'rank', text: 'rank', frameAnchor: 'top-left', dy: -14, fontWeight: 600 })]
        : []),
    ],
  })
}
