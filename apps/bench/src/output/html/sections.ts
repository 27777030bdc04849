import { STAGES, type Timeline } from '@ckpt/core'
import { referenceRuns, type BenchResult, type ReferenceRun, type Run } from '../../result.ts'
import { percent, predictRuns } from '../../validate.ts'
import { comparisonOf } from '../comparison.ts'
import { runLabels } from '../labels.ts'
import { publishedRows } from '../published.ts'
import { gigabytes, seconds } from '../units.ts'
import { limitBars, timelineCharts } from './charts.ts'
import { html, type Markup } from './markup.ts'

/**
 * Maximum spans drawn in one page, which keeps it well below 2 MB: shared by the runs, and per run no more than its width can
 * show.
 */
const SPANS_A_PAGE = 12_000
const SPANS_A_RUN = 3000
/** Maximum ranks that are drawn. */
const RANKS_A_RUN = 16

type Cell = string | number | Markup

/**
 * Renders a table whose first column names the rows. On a narrow page each row becomes a card, whose cells repeat their
 * columns' names.
 */
export function rows(head: readonly string[], body: readonly (readonly Cell[])[]): Markup {
  return html`<table>
    <thead>
      <tr>
        ${head.map((cell) => html`<th scope="col">${cell}</th>`)}
      </tr>
    </thead>
    <tbody>
      ${body.map(
        ([name, ...cells]) =>
          html`<tr>
            <th scope="row">${name}</th>
            ${cells.map((cell, index) => html`<td data-label="${head[index + 1]}">${cell}</td>`)}
          </tr>`,
      )}
    </tbody>
  </table>`
}

/** Formats the least time for a run's updates. */
export function limitCell(run: Run): Markup {
  const { updateMs, limitMs, each } = comparisonOf(run)
  return html`${seconds(limitMs)}${each ? html`<small>for the update of ${seconds(updateMs)}</small>` : undefined}`
}

/** Formats the result of the comparison with what was expected. */
export function verdictCell(right: boolean, verified: string): Markup {
  return right ? html`<span class="good">${verified}</span>` : html`<span class="bad">FAILED</span>`
}

/** Shows the runs, next to published figures for the whole models. */
export function headline(result: BenchResult): Markup | undefined {
  const runs = referenceRuns(result)
  if (runs.length === 0) return undefined
  const anyPublished = runs.some((run) => publishedRows(run.model).length > 0)
  const body = runs.map((run) => {
    const published = publishedRows(run.model).map(
      (row) => html`${row.broadcastSeconds.toFixed(2)} s<small>${row.devices}</small>`,
    )
    return [
      html`${run.title}<small>${run.scale}</small>`,
      html`${run.strategy}<small
          >${run.backend}, ${run.ranks} ranks${run.variant === undefined ? '' : `, ${run.variant}`}</small
        >`,
      html`${gigabytes(run.bytes)}<small>${run.tensors.toLocaleString('en')} tensors</small>`,
      html`${seconds(run.updateMs.median)}<small
          >${gigabytes((run.bytes / run.updateMs.median) * 1000)}/s; ${run.updateMs.samples.length} samples,
          ${seconds(run.updateMs.min)} to ${seconds(run.updateMs.max)}</small
        >`,
      html`${seconds(run.unverifiedMs.median)}<small>${verificationText(run)}</small>`,
      seconds(run.registerMs),
      seconds(run.gatherMetasMs),
      limitCell(run),
      comparisonOf(run).ratio.toFixed(2),
      verdictCell(run.parametersEqual, run.verified),
      ...(anyPublished ? [published.length === 0 ? '–' : html`${published}`] : []),
    ]
  })
  const head = [
    'model',
    'how',
    'size',
    'update',
    'unverified',
    'register',
    'gather metas',
    'limit',
    'ratio to limit',
    'verified',
  ]
  if (!anyPublished) return rows(head, body)
  return html`${rows([...head, 'published'], body)}
    <p class="quiet">
      The published figures are those of checkpoint-engine for broadcasts of whole models on other machines: for orientation,
      not for comparison.
    </p>`
}

/** Shows bars of the runs relative to their limits. */
export function limits({ runs, peers: others }: BenchResult): Markup | undefined {
  if (runs.length === 0) return undefined
  const each = runs.some((run) => comparisonOf(run).each)
  const how = [...new Set(runs.map(({ limit }) => limit.how.replace(/^\d+ bytes/, 'the bytes')))]
  return html`<h2>Comparison with the limit</h2>
    <p>
      ${
        each
          ? 'Each timed update over the least time that this machine could take, measured right before it: the bar is the median of these ratios, the whisker spans all of them.'
          : 'Median of the timed updates over the least time this machine could take; the whisker spans the fastest and the slowest sample.'
      }
      The limit is: ${how.join('; ')}.
    </p>
    <figure>${limitBars(runs, others)}</figure>`
}

/** Shows other systems measured in the same run. */
export function peers({ peers: measured }: BenchResult): Markup | undefined {
  if (measured.length === 0) return undefined
  const body = measured.map((peer) => [
    `${peer.peer} ${peer.version}`,
    peer.what,
    peer.model,
    peer.ranks,
    seconds(peer.oursMs.median),
    seconds(peer.peerMs.median),
    `${peer.ratio.toFixed(1)} ×`,
  ])
  return html`<h2>Other systems in the same run</h2>
    ${rows(['system', 'what', 'model', 'ranks', 'ckpt', 'that system', 'it takes'], body)}`
}

/** Shows the last timed update of each run, rank by rank. */
export function timelines(result: BenchResult): Markup | undefined {
  const runs = referenceRuns(result)
  const drawn = runs.filter(hasTimelines)
  if (drawn.length === 0) return undefined
  const had = STAGES.filter((_, stage) =>
    drawn.some((run) => run.timelines.some(({ spans }) => spans.some(([of]) => of === stage))),
  )
  const maxSpans = Math.min(SPANS_A_RUN, Math.floor(SPANS_A_PAGE / drawn.length))
  return html`<h2>Where the time went</h2>
    <p>
      The last timed update of each run. Bars of one stage that lie closer together than can be drawn are joined.
      <span class="key"
        ><span style="--swatch: var(--step)">steps of the update</span>
        ${had.map((name) => html`<span style="--swatch: var(--${name.toLowerCase()})">${name}</span>`)}</span
      >
    </p>
    ${drawn.map((run) => timeline(run, runLabels(runs)[runs.indexOf(run)]!, maxSpans))}`
}

type TimedRun = ReferenceRun & { readonly timelines: readonly Timeline[] }

function hasTimelines(run: ReferenceRun): run is TimedRun {
  return run.timelines !== undefined && run.timelines.length > 0
}

function timeline(run: TimedRun, label: string, maxSpans: number): Markup {
  const { stages } = run
  const shown = run.timelines.slice(0, RANKS_A_RUN)
  const left = run.timelines.length - shown.length
  return html`<h3>${label}</h3>
    <figure>
      ${timelineCharts(shown, maxSpans)}
      <figcaption>
        Busiest rank of the median update: H2D ${seconds(stages.h2dMs)}, broadcast ${seconds(stages.broadcastMs)}, reload
        ${seconds(stages.reloadMs)}, idle ${seconds(stages.idleMs)}. Mode:
        ${run.mode}.${left > 0 ? ` ${left} more ranks are not drawn.` : ''}
      </figcaption>
    </figure>`
}

/** Shows the bytes that each stage moved. */
export function bytes(result: BenchResult): Markup | undefined {
  const body = referenceRuns(result).flatMap(({ title, bytes: whole, moved, ...run }) => {
    if (moved === undefined) return []
    const { h2dBytes, broadcastBytes, reloadBytes } = moved
    const sizes = [whole, h2dBytes, broadcastBytes, reloadBytes, h2dBytes + broadcastBytes + reloadBytes]
    return [[title, ...[...sizes, run.peakDeviceBytes, run.peakHostBytes].map(gigabytes)]]
  })
  if (body.length === 0) return undefined
  const head = ['model', 'checkpoint', 'H2D', 'broadcast', 'reload', 'together', 'ring, a rank', 'host memory, a rank']
  return html`<h2>Bytes moved</h2>
    <p>Per update, all ranks together.</p>
    ${rows(head, body)}`
}

/** Shows runs next to the simulator's predictions, if rates were measured separately from the updates. */
export function predictions(result: BenchResult): Markup | undefined {
  const predicted = predictRuns(result)
  const labels = runLabels(referenceRuns(result))
  const body = predicted.flatMap(({ run, prediction }, index) =>
    typeof prediction === 'string'
      ? []
      : [
          [
            labels[index]!,
            html`${seconds(run.updateMs.median)}<small>${seconds(run.updateMs.min)} to ${seconds(run.updateMs.max)}</small>`,
            seconds(prediction.totalMs),
            percent(prediction.error),
          ],
        ],
  )
  if (body.length === 0) return undefined
  return html`<h2>Simulated</h2>
    <p>What the simulator predicts from rates measured in the same run, apart from the updates.</p>
    ${rows(['run', 'measured', 'predicted', 'error'], body)}`
}

/** Shows the machine, its ceilings, and the measurements that are not updates. */
export function machine({ machine: on, ceilings, gpus, registration, gatherMetas, startedAt }: BenchResult): Markup {
  const entries: [string, string][] = [
    ['processor', `${on.cpu}, ${on.cores} cores`],
    ['memory', gigabytes(on.memoryBytes)],
    ['system', `${on.os}, Node ${on.node}`],
    [
      'copy ceiling',
      `${gigabytes(ceilings.copyBytesPerSecond)}/s: all cores, buffers larger than any cache, measured in this run`,
    ],
    ['begun', startedAt],
  ]
  if (ceilings.readBytesPerSecond !== undefined) {
    const rate = gigabytes(ceilings.readBytesPerSecond)
    entries.push(['read ceiling', `${rate}/s: warm files into warm memory, measured in this run`])
  }
  if (gpus) {
    const each = gpus.h2dEachBytesPerSecond.map((rate) => `${gigabytes(rate)}/s`).join(', ')
    entries.push(['GPUs', `${gpus.names.join(', ')}; host links, all at once: ${each}`])
  }
  if (registration) {
    const { bytes: size, registerMs, ofCeiling, freshMs, freshOfCeiling } = registration
    const part = (ofReading: number) => `${(ofReading * 100).toFixed(0)} % of the read ceiling`
    const pooled = `${gigabytes(size)} in ${seconds(registerMs.median)} into the pool: ${part(ofCeiling)}`
    entries.push(['registration', `${pooled}; ${seconds(freshMs.median)} into new memory: ${part(freshOfCeiling)}`])
  }
  if (gatherMetas) {
    const { model, tensors, ranks, firstMs, unchangedMs } = gatherMetas
    const times = `${seconds(firstMs)} the first time, ${seconds(unchangedMs.median)} unchanged`
    entries.push(['gatherMetas', `${model} at full size, ${tensors.toLocaleString('en')} tensors, ${ranks} ranks: ${times}`])
  }
  return html`<h2>Machine and ceilings</h2>
    <dl>
      ${entries.map(
        ([name, value]) =>
          html`<dt>${name}</dt>
            <dd>${value}</dd>`,
      )}
    </dl>`
}

/** Lists what was not measured, with reasons. */
export function skipped({ skipped: items }: BenchResult): Markup | undefined {
  if (items.length === 0) return undefined
  return html`<h2>Not measured</h2>
    <dl>
      ${items.map(
        ({ what, reason }) =>
          html`<dt>${what}</dt>
            <dd>${reason}</dd>`,
      )}
    </dl>`
}

function verificationText({ verificationCost, stepVerificationCost }: ReferenceRun): string {
  const update = `verification adds ${percent(verificationCost)}`
  return stepVerificationCost === undefined ? update : `${update}, with registration ${percent(stepVerificationCost)}`
}
