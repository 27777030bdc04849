import { formatSize } from '../sizes.ts'

/** Progress of one step on one or several ranks. */
export interface StepState {
  /** Name of the step, such as `register`. */
  readonly label: string
  /** Bytes done, and of how many, by rank; ranks that have not begun are missing. */
  readonly ranks: ReadonlyMap<number, Amount>
  /** Number of ranks that take part. */
  readonly expected: number
  readonly elapsedMs: number
}

export interface Amount {
  readonly done: number
  readonly total: number
}

/** Widest bar, in columns. */
const WIDEST = 40
const NARROWEST = 8

/** Returns a line of at most `columns` columns: a bar, and as many figures as there is room for. */
export function progressLine(state: StepState, columns: number): string {
  const { done, total } = sumOf(state)
  const part = partOf(state)
  const percent = `${Math.floor(part * 100)}%`.padStart(4)
  const room = Math.max(columns, 1)
  // A version's name can be long.
  const label = shortened(state.label, Math.max(8, room - NARROWEST - percent.length - 24))
  const left = leftText(state, part)
  const rate = rateText(done, state.elapsedMs)
  const ranks = ranksText(state)
  // The most useful first: what does not fit is left out.
  const wanted = [sizePair(done, total), left, rate, ranks].filter((text) => text !== '')
  const fixed = label.length + 1 + 1 + percent.length
  const figures: string[] = []
  let used = fixed
  for (const text of wanted) {
    if (used + NARROWEST + text.length + 2 > room) continue
    figures.push(text)
    used += text.length + 2
  }
  const width = Math.max(0, Math.min(WIDEST, room - used))
  const full = Math.round(width * part)
  const bar = `${'█'.repeat(full)}${'░'.repeat(width - full)}`
  const tail = figures.map((text) => `  ${text}`).join('')
  return `${label} ${bar} ${percent}${tail}`.slice(0, room)
}

/** Returns one line for a step that is over. */
export function finishedLine(state: StepState): string {
  const { done, total } = sumOf(state)
  const ranks = state.expected > 1 ? ` on ${state.expected} ranks` : ''
  if (partOf(state) < 1) return `${state.label}: stopped at ${sizePair(done, total)}${ranks}`
  const seconds = state.elapsedMs / 1000
  const rate = done > 0 && seconds > 0 ? ` (${rateText(done, state.elapsedMs)})` : ''
  return `${state.label}: ${formatSize(done)}${ranks} in ${seconds.toFixed(seconds < 10 ? 2 : 0)} s${rate}`
}

/** Returns the part of a step that is done, from 0 to 1: that of all ranks together. */
export function partOf({ ranks, expected }: StepState): number {
  const parts = [...ranks.values()].map(({ done, total }) => (total === 0 ? 1 : Math.min(1, done / total)))
  return parts.reduce((sum, part) => sum + part, 0) / Math.max(expected, parts.length, 1)
}

function sumOf({ ranks }: StepState): Amount {
  const sum = { done: 0, total: 0 }
  for (const { done, total } of ranks.values()) {
    sum.done += done
    sum.total += total
  }
  return sum
}

/** Formats done and total in one unit: `10.2/16.1 GB`. */
function sizePair(done: number, total: number): string {
  const [, unit = 'kB'] = formatSize(total).split(' ')
  const scale = { kB: 1e3, MB: 1e6, GB: 1e9 }[unit] ?? 1
  const digits = total / scale >= 100 ? 0 : 1
  return `${(done / scale).toFixed(digits)}/${(total / scale).toFixed(digits)} ${unit}`
}

function rateText(done: number, elapsedMs: number): string {
  return elapsedMs <= 0 || done === 0 ? '' : `${formatSize(done / (elapsedMs / 1000))}/s`
}

function leftText({ elapsedMs }: StepState, part: number): string {
  if (part <= 0 || part >= 1) return ''
  const seconds = (elapsedMs / 1000 / part) * (1 - part)
  if (seconds < 60) return `ETA ${Math.ceil(seconds)} s`
  const minutes = Math.floor(seconds / 60)
  return minutes < 60
    ? `ETA ${minutes} min ${Math.ceil(seconds % 60)} s`
    : `ETA ${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

/** Names the rank that is behind the others. */
function ranksText({ ranks, expected }: StepState): string {
  if (expected < 2) return ''
  if (ranks.size < expected) return `${ranks.size} of ${expected} ranks`
  const [slowest] = [...ranks].sort(([, a], [, b]) => a.done / (a.total || 1) - b.done / (b.total || 1))
  const [rank, { done, total }] = slowest!
  return `slowest: rank ${rank} ${Math.floor((done / (total || 1)) * 100)}%`
}

function shortened(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`
}
