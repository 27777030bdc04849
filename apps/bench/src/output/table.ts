import Table from 'cli-table3'
import type { BenchResult, Run } from '../result.ts'
import { publishedRows } from './published.ts'
import { gigabytes, seconds } from './units.ts'

/** The bench's result for a terminal. */
export function renderTables(result: BenchResult): string {
  const { machine, ceilings } = result
  const parts = [
    `${machine.cpu}, ${machine.cores} cores, ${gigabytes(machine.memoryBytes)}, Node ${machine.node}`,
    `copy ceiling ${gigabytes(ceilings.copyBytesPerSecond)}/s, read ceiling ${gigabytes(ceilings.readBytesPerSecond)}/s, measured in this run`,
    '',
    updates(result.runs),
    ...orders(result.runs),
    published(result.runs),
  ]
  if (result.registration) {
    const { bytes, registerMs, ofCeiling, freshMs, freshOfCeiling } = result.registration
    const percent = (part: number) => `${(part * 100).toFixed(0)} %`
    parts.push(
      `registration of ${gigabytes(bytes)} of warm files: ${seconds(registerMs.median)} into the pool (${percent(ofCeiling)} of the read ceiling), ${seconds(freshMs.median)} into new memory (${percent(freshOfCeiling)})`,
    )
  }
  if (result.gatherMetas) {
    const { model: id, tensors, ranks, firstMs, unchangedMs } = result.gatherMetas
    parts.push(
      `gatherMetas of ${id} at full size (${tensors} tensors, ${ranks} ranks): ${seconds(firstMs)} first, ${seconds(unchangedMs.median)} unchanged`,
    )
  }
  for (const peer of result.peers) {
    parts.push(
      `${peer.what} of ${peer.model} over ${peer.ranks} ranks: ${seconds(peer.oursMs.median)}; ${peer.peer} ${peer.version}: ${seconds(peer.peerMs.median)} (${peer.ratio.toFixed(0)} times as long)`,
    )
  }
  for (const { what, reason } of result.skipped) parts.push(`not measured: ${what}: ${reason}`)
  return `${parts.join('\n')}\n`
}

function updates(runs: readonly Run[]): string {
  const table = new Table({
    head: [
      'model (scaled)',
      'kept',
      'bytes',
      'tensors',
      'ranks',
      'register',
      'update',
      'with digests',
      'limit',
      'ratio',
      'verified',
    ],
    style: { head: [], border: [] },
    colWidths: [null, 34],
    wordWrap: true,
  })
  for (const run of runs) {
    table.push([
      run.title,
      run.scale,
      gigabytes(run.bytes),
      run.tensors,
      run.ranks,
      seconds(run.registerMs),
      `${seconds(run.updateMs.median)} (${gigabytes((run.bytes / run.updateMs.median) * 1000)}/s)`,
      seconds(run.digestUpdateMs),
      seconds(run.limit.updateMs),
      run.ratioToLimit.toFixed(2),
      run.verified ? 'every byte' : 'FAILED',
    ])
  }
  return table.toString()
}

/** How H2D and broadcasts were laid in time, of runs whose links carry both. */
function orders(runs: readonly Run[]): string[] {
  return runs.flatMap(({ title, order }) => (order?.linksShared ? [`${title}: ${order.name}: ${order.reason}`] : []))
}

/** What checkpoint-engine's authors report for the whole models on GPUs: another scale and another machine, so for orientation only. */
function published(runs: readonly Run[]): string {
  const table = new Table({
    head: ['published for the whole model (checkpoint-engine)', 'devices', 'gather metas', 'broadcast', 'p2p'],
    style: { head: [], border: [] },
  })
  for (const id of new Set(runs.map((run) => run.model))) {
    for (const row of publishedRows(id)) {
      table.push([row.title, row.devices, `${row.gatherMetasSeconds} s`, `${row.broadcastSeconds} s`, `${row.p2pSeconds} s`])
    }
  }
  return table.length === 0 ? '' : table.toString()
}
