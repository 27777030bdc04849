import { engineRuns, type BenchResult } from '../../result.ts'
import { howText, pauseText } from '../engine-text.ts'
import { gigabytes, seconds } from '../units.ts'
import { html, type Markup } from './markup.ts'
import { rows } from './sections.ts'

/** Shows updates of real inference engines. */
export function engines(result: BenchResult): Markup | undefined {
  const runs = engineRuns(result)
  if (runs.length === 0) return undefined
  const body = runs.map(
    (run) =>
      html`<tr>
        <th scope="row">${run.title}<small>${run.scale}</small></th>
        <td>${run.engine} ${run.engineVersion}<small>${run.backend}, ${run.ranks} ranks</small></td>
        <td>${run.strategy}<small>${run.fallback ?? howText(run.how)}</small></td>
        <td>${gigabytes(run.bytes)}<small>${run.tensors.toLocaleString('en')} tensors</small></td>
        <td>
          ${seconds(run.updateMs.median)}<small
            >${run.updateMs.samples.length} samples, ${seconds(run.updateMs.min)} to ${seconds(run.updateMs.max)}</small
          >
        </td>
        <td>${run.firstUpdateMs === undefined ? '–' : seconds(run.firstUpdateMs)}</td>
        <td>${seconds(run.registerMs)}</td>
        <td>${seconds(run.gatherMetasMs)}</td>
        <td>${pauseText(run)}</td>
        <td>${seconds(run.limit.updateMs)}</td>
        <td>${run.ratioToLimit.toFixed(2)}</td>
        <td>${run.answersEqual ? html`<span class="good">${run.verified}</span>` : html`<span class="bad">FAILED</span>`}</td>
      </tr>`,
  )
  const head = [
    ...['model', 'engine', 'how', 'size', 'update', 'first update', 'register', 'gather metas', 'longest token gap', 'limit'],
    ...['ratio to limit', 'verified'],
  ]
  return html`<h2>Real engines</h2>
    ${rows(head, body)}`
}
