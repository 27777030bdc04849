import Table from 'cli-table3'
import type { EngineRun } from '../result.ts'
import { howText, pauseText } from './engine-text.ts'
import { gigabytes, seconds } from './units.ts'

/** Formats updates of real inference engines for a terminal. */
export function engineTable(runs: readonly EngineRun[]): string {
  const head = ['model', 'engine', 'how', 'register', 'gather', 'first', 'update', 'limit', 'ratio', 'token gap', 'verified']
  const table = new Table({ head, style: { head: [], border: [] }, wordWrap: true, colWidths: [24, null, 24] })
  for (const run of runs) {
    const { median, min, max } = run.updateMs
    table.push([
      `${run.title}, ${run.scale}: ${gigabytes(run.bytes)}, ${run.tensors} tensors, ${run.ranks} ranks`,
      `${run.engine} ${run.engineVersion}`,
      `${run.requested}: ${run.strategy} ${run.fallback ?? howText(run.how)}`,
      seconds(run.registerMs),
      seconds(run.gatherMetasMs),
      run.firstUpdateMs === undefined ? '' : seconds(run.firstUpdateMs),
      `${seconds(median)} (${seconds(min)} to ${seconds(max)})`,
      seconds(run.limit.updateMs),
      run.ratioToLimit.toFixed(2),
      pauseText(run),
      run.answersEqual ? `${run.verified}, answers equal` : 'FAILED',
    ])
  }
  return table.toString()
}
