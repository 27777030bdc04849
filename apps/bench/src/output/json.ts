import type { BenchResult } from '../result.ts'

/** The result as JSON for people and programs: indented, but rows of plain numbers (spans, samples) on one line each. */
export function renderJson(result: BenchResult): string {
  // A string in JSON has no line break, so this finds arrays only.
  const rows = /\[\n\s*-?[\d.][^\]"{[]*\]/g
  return `${JSON.stringify(result, null, 2).replace(rows, (row) => row.replace(/\s+/g, ' ').replace('[ ', '[').replace(' ]', ']'))}\n`
}
