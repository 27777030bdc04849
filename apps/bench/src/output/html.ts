import { isRight, referenceRuns, type BenchResult, type Run } from '../result.ts'
import { engines } from './html/engines.ts'
import { lead } from './html/lead.ts'
import { html, Markup } from './html/markup.ts'
import { bytes, headline, limits, machine, peers, predictions, skipped, timelines } from './html/sections.ts'
import { STYLE } from './html/style.ts'
import { renderJson } from './json.ts'

/** Renders the result as one self-contained page of less than 2 MB, without scripts or external resources. */
export function renderHtml(result: BenchResult): string {
  const { startedAt, machine: on } = result
  const failed = result.runs.filter((run) => !isRight(run)).length
  const compared =
    referenceRuns(result).length > 0
      ? 'Every byte of every run was compared with the files.'
      : 'After every update answers were compared with those of a server that loaded the checkpoint from disk.'
  const verdict =
    failed === 0
      ? html`<span class="good">${compared}</span>`
      : html`<span class="bad">${failed} of ${result.runs.length} runs did not give the engines the files’ bytes.</span>`
  const figures = { ...result, runs: result.runs.map(withoutTimelines) }
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>ckpt bench, ${startedAt.slice(0, 10)}</title>
        <style>
          ${new Markup(STYLE)}
        </style>
      </head>
      <body>
        <h1>ckpt bench</h1>
        <p class="quiet">${startedAt.slice(0, 16).replace('T', ' ')} UTC · ${on.cpu}, ${on.cores} cores · ${verdict}</p>
        ${lead(result)} ${limits(result)} ${headline(result)} ${engines(result)} ${peers(result)} ${timelines(result)}
        ${bytes(result)} ${predictions(result)} ${machine(result)} ${skipped(result)}
        <details>
          <summary>All figures but the timelines</summary>
          <pre>${renderJson(figures)}</pre>
        </details>
      </body>
    </html> `.html
}

function withoutTimelines(run: Run): Run {
  if (run.engine === 'vllm') return run
  const { timelines: _, ...figures } = run
  return figures
}
