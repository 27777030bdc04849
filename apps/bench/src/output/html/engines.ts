import { engineRuns, type BenchResult } from '../../result.ts'
import { comparisonOf } from '../comparison.ts'
import { howText, pauseText } from '../engine-text.ts'
import { gigabytes, seconds } from '../units.ts'
import { html, type Markup } from './markup.ts'
import { limitCell, rows, verdictCell } from './sections.ts'

/** Shows updates of real inference engines. */
export function engines(result: BenchResult): Markup | undefined {
  const runs = engineRuns(result)
  if (runs.length === 0) return undefined
  const body = runs.map((run) => [
    html`${run.title}<small>${run.scale}</small>`,
    html`${run.engine} ${run.engineVersion}<small>${run.backend}, ${run.ranks} ranks</small>`,
    html`${run.strategy}<small>${run.fallback ?? howText(run.how)}</small>`,
    html`${gigabytes(run.bytes)}<small>${run.tensors.toLocaleString('en')} tensors</small>`,
    html`${seconds(run.updateMs.median)}<small
        >${run.updateMs.samples.length} samples, ${seconds(run.updateMs.min)} to ${seconds(run.updateMs.max)}</small
      >`,
    run.firstUpdateMs === undefined ? '–' : seconds(run.firstUpdateMs),
    seconds(run.registerMs),
    seconds(run.gatherMetasMs),
    pauseText(run),
    limitCell(run),
    comparisonOf(run).ratio.toFixed(2),
    verdictCell(run.answersEqual, run.verified),
  ])
  const head = [
    ...['model', 'engine', 'how', 'size', 'update', 'first update', 'register', 'gather metas', 'longest token gap', 'limit'],
    ...['ratio to limit', 'verified'],
  ]
  return html`<h2>Real engines</h2>
    ${rows(head, body)}`
}
