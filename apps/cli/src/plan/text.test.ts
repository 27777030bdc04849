import { topology } from '@ckpt/planner'
import { describe as group, expect, it } from 'vitest'
import { simulateAll } from './scenario.ts'
import { columns, describe } from './text.ts'

group('a table', () => {
  const head = ['system', 'update', 'bound']
  const rows = [
    ['ckpt', '1.25 s', '812 ms'],
    ['checkpoint-engine', '14.00 s', '812 ms'],
  ]

  it('has a column for each title where it fits', () => {
    expect(columns(head, rows, false, 40)).toBe(
      'system              update   bound\nckpt                1.25 s  812 ms\ncheckpoint-engine  14.00 s  812 ms',
    )
  })

  it('is turned where it does not', () => {
    expect(columns(head, rows, false, 30)).toBe(
      'system  ckpt\nupdate  1.25 s\nbound   812 ms\n\nsystem  checkpoint-engine\nupdate  14.00 s\nbound   812 ms',
    )
  })

  it.each([50, 80, 120])('of a simulation fits %i columns of a terminal', (room) => {
    const { isTTY, columns: before } = process.stdout
    Object.assign(process.stdout, { isTTY: true, columns: room })
    try {
      const rates = topology('h20-8x400g', 'reference')
      const text = describe(simulateAll({ model: 'qwen3-30b-a3b', gpus: 16, tp: 8, rates }))
      expect(Math.max(...text.split('\n').map(({ length }) => length))).toBeLessThanOrEqual(room)
      expect(text).toContain('checkpoint-engine')
    } finally {
      Object.assign(process.stdout, { isTTY, columns: before })
    }
  })
})
