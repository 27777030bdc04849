import { POINTS } from './fault.ts'
import type { Campaign, Case } from './campaign.ts'
import { STRATEGIES } from './fault-cluster.ts'
import type { TrialResult } from './trial.ts'

/** Formats trials by fault and point: their number, broken invariants, the slowest survivor's error, and the codes. */
export function table({ results, missing }: Campaign): string {
  const faults = [...new Set(results.map(({ fault }) => fault))].sort()
  const rows = [['fault', 'point', 'trials', 'breaks', 'ended', 'error after', 'codes']]
  for (const fault of faults) {
    for (const point of POINTS) {
      const some = results.filter((result) => result.fault === fault && result.point === point)
      if (some.length > 0) rows.push([fault, point, ...summary(some)])
    }
  }
  rows.push(['all', '', ...summary(results)])
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const lines = rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join('  ')
      .trimEnd(),
  )
  lines.push('', ...STRATEGIES.flatMap((strategy) => byStrategy(strategy, results)), ...notRun(missing))
  return lines.join('\n')
}

function byStrategy(strategy: string, results: readonly TrialResult[]): string[] {
  const some = results.filter((result) => result.strategy === strategy)
  if (some.length === 0) return []
  const [trials, breaks, ended, after] = summary(some)
  return [`${strategy}: ${trials} trials, ${breaks} breaks; ${ended}${after === '' ? '' : `; errors after ${after} at most`}`]
}

const notRun = (missing: Campaign['missing']) => missing.map(({ fault, reason }) => `not run: ${fault}: ${reason}`)

/** Lists the faults with their points and strategies. */
export function listOf({ cases, missing }: { cases: readonly Case[]; missing: Campaign['missing'] }): string {
  const points = new Map<string, string[]>()
  for (const one of cases) {
    const all = points.get(one.fault.name) ?? []
    points.set(one.fault.name, all)
    all.push(one.kind === 'register' ? 'register' : one.point)
  }
  return [...[...points].map(([fault, all]) => `${fault}: ${all.join(' ')}`), ...notRun(missing)].join('\n')
}

function summary(results: readonly TrialResult[]): string[] {
  const broken = results.filter(({ breaks }) => breaks.length > 0).length
  const times = results.flatMap(({ errorMs }) => errorMs ?? [])
  const states = new Map<string, number>()
  for (const { state } of results) states.set(state, (states.get(state) ?? 0) + 1)
  return [
    String(results.length),
    String(broken),
    [...states].map(([state, count]) => `${count} ${state}`).join(', '),
    times.length === 0 ? '' : `${(Math.max(...times) / 1000).toFixed(2)} s`,
    [...new Set(results.flatMap(({ codes }) => codes))].sort().join(' '),
  ]
}
