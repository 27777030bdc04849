import type { BenchResult } from '../result.ts'

/**
 * Renders the result as JSON for people and programs: indented, but with rows of plain numbers (spans, samples) on one line
 * each.
 */
export function renderJson(result: BenchResult): string {
  // A JSON string contains no line break, so this matches only arrays.
  const rows = /\[\n\s*-?[\d.][^\]"{[]*\]/g
  return `${JSON.stringify(result, null, 2).replace(rows, (row) => row.replace(/\s+/g, ' ').replace('[ ', '[').replace(' ]', ']'))}\n`
}
