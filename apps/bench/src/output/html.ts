import type { BenchResult } from '../result.ts'

/** The result as one self-contained page. */
export function renderHtml(result: BenchResult): string {
  const rows = result.runs.map((run) => {
    const width = Math.min(100, 100 / run.ratioToLimit)
    return `<tr><th scope="row">${escape(run.title)}<br><small>${escape(run.scale)}</small></th>
<td>${(run.bytes / 1e9).toFixed(2)} GB</td><td>${run.tensors}</td><td>${run.ranks}</td><td>${run.updateMs.median.toFixed(1)} ms</td>
<td>${run.limit.updateMs.toFixed(1)} ms</td><td><span class="bar"><span style="width:${width.toFixed(1)}%"></span></span> ${run.ratioToLimit.toFixed(2)}</td>
<td>${run.verified ? 'every byte' : 'FAILED'}</td></tr>`
  })
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ckpt bench</title>
<style>
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } th, td { padding: .4rem .6rem; text-align: left; border-bottom: 1px solid #8886 }
.bar { display: inline-block; width: 8rem; height: .8rem; background: #8883; vertical-align: middle } .bar span { display: block; height: 100%; background: #3a7bd5 }
</style>
<h1>ckpt bench</h1>
<p>${escape(result.machine.cpu)}, ${result.machine.cores} cores, ${escape(result.startedAt)}. Copy ceiling
${(result.ceilings.copyBytesPerSecond / 1e9).toFixed(2)} GB/s, measured in the same run. A full bar is an update at the limit.</p>
<table><thead><tr><th>model</th><th>bytes</th><th>tensors</th><th>ranks</th><th>update</th><th>limit</th><th>ratio to limit</th><th>verified</th></tr></thead>
<tbody>${rows.join('\n')}</tbody></table>
<details><summary>All figures</summary><pre>${escape(JSON.stringify(result, null, 2))}</pre></details>
</html>
`
}

function escape(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`)
}
