import type { Simulation } from '@ckpt/planner'
import { formatSize } from '../sizes.ts'

/**
 * Formats rows of cells as columns of text, numbers to the right; with `markdown` as a Markdown table. Where lines would be wider
 * than `room`, each row becomes a block with one cell on a line.
 */
export function columns(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  markdown = false,
  room = terminalWidth(),
): string {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]!.length)))
  const right = head.map(
    (_, column) => rows.length > 0 && rows.every((row) => /^[-–<]?[\d.]/.test(row[column]!) || row[column] === '–'),
  )
  const line = (cells: readonly string[]) =>
    cells.map((cell, column) => (right[column] ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)))
  if (!markdown) {
    const lines = [head, ...rows].map((cells) => line(cells).join('  ').trimEnd())
    return lines.every(({ length }) => length <= room) ? lines.join('\n') : blocks(head, rows)
  }
  const rule = widths.map((width, column) => (right[column] ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)))
  return [line(head), rule, ...rows.map(line)].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

/** Formats each row as lines of titles and cells. */
function blocks(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const width = Math.max(...head.map(({ length }) => length))
  const block = (row: readonly string[]) => row.map((cell, column) => `${head[column]!.padEnd(width)}  ${cell}`).join('\n')
  return rows.map(block).join('\n\n')
}

/** Columns of the terminal; pipes and files have no limit. */
function terminalWidth(): number {
  return process.stdout.isTTY ? process.stdout.columns || 80 : Infinity
}

/** Formats milliseconds for people. */
export function time(milliseconds: number): string {
  return milliseconds >= 1000
    ? `${(milliseconds / 1000).toFixed(2)} s`
    : `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`
}

/** Formats one table of times and memory, then the links of each simulation. */
export function describe(simulations: readonly Simulation[]): string {
  const stage = (milliseconds: number) => (milliseconds === 0 ? '–' : time(milliseconds))
  const times = columns(
    [
      'system',
      'strategy',
      'to',
      'update',
      'bound',
      'bottleneck',
      'H2D',
      'network',
      'broadcast',
      'reload',
      'GPU memory',
      'host memory',
    ],
    simulations.map(({ system, strategy, receivers, totalMs, boundMs, stages, ...rest }) => [
      system,
      strategy,
      String(receivers),
      time(totalMs),
      time(boundMs),
      rest.bottleneck,
      stage(stages.h2dMs),
      stage(stages.networkMs),
      stage(stages.broadcastMs),
      stage(stages.reloadMs),
      rest.deviceBytes === 0 ? '–' : formatSize(rest.deviceBytes),
      formatSize(rest.hostBytes),
    ]),
  )
  const links = columns(
    ['system', 'strategy', 'link', 'bytes', 'busy', 'of the update'],
    simulations.flatMap(({ system, strategy, totalMs, links: used }) =>
      used.map(({ link, bytes, busyMs }) => [
        system,
        strategy,
        link,
        formatSize(bytes),
        time(busyMs),
        `${((busyMs / totalMs) * 100).toFixed(0)} %`,
      ]),
    ),
  )
  return `${times}\n\nThe busiest link of each kind:\n\n${links}\n`
}
