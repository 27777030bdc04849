import { describe, expect, it } from 'vitest'
import { finishedLine, progressLine, type StepState } from './progress-line.ts'

/** A step of `ranks` ranks, the last of which is behind. */
function step(ranks: number, part = 0.5, label = 'update'): StepState {
  const total = 16.1e9
  const amounts = Array.from(
    { length: ranks },
    (_, rank) => [rank, { done: total * (rank === ranks - 1 ? part / 2 : part), total }] as const,
  )
  return { label, ranks: new Map(amounts), expected: ranks, elapsedMs: 4000 }
}

describe('a progress bar', () => {
  it.each([1, 8])('of %i ranks fits 50, 80 and 120 columns, with unit and time left', (ranks) => {
    for (const columns of [50, 80, 120]) {
      for (const part of [0.001, 0.5, 0.999]) {
        const line = progressLine(step(ranks, part), columns)
        expect(line.length, line).toBeLessThanOrEqual(columns)
        expect(line).toMatch(/^update [█░]{8,40} +\d+% {2}[\d.]+\/[\d.]+ GB {2}ETA \d+ (s|min|h)/)
      }
    }
  })

  it('shows the rate and the slowest rank where there is room', () => {
    expect(progressLine(step(8), 120)).toContain('slowest: rank 7 25%')
    expect(progressLine(step(8), 120)).toMatch(/ [\d.]+ GB\/s /)
    expect(progressLine(step(8), 50)).not.toContain('slowest')
  })

  it('counts ranks that have not begun', () => {
    const { ranks } = step(1, 1)
    const line = progressLine({ label: 'update', ranks, expected: 2, elapsedMs: 1000 }, 120)
    expect(line).toContain('25%')
    expect(line).toContain('1 of 2 ranks')
  })

  it('fits any width, and any label', () => {
    for (let columns = 1; columns < 130; columns++) {
      expect(progressLine(step(3), columns).length).toBeLessThanOrEqual(columns)
      expect(progressLine(step(3, 0.5, `update ${'step'.repeat(40)}`), columns).length).toBeLessThanOrEqual(columns)
    }
  })
})

describe('a step that is over', () => {
  it('is one line', () => {
    expect(finishedLine({ ...step(1, 2), expected: 1 })).toBe('update: 16.10 GB in 4.00 s (4.03 GB/s)')
    expect(finishedLine({ ...step(2, 2) })).toBe('update: 48.30 GB on 2 ranks in 4.00 s (12.07 GB/s)')
    expect(finishedLine(step(2))).toMatch(/^update: stopped at 12\.1\/32\.2 GB on 2 ranks$/)
  })
})
