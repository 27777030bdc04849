import type { DirectReport } from '@ckpt/contract'
import { describe, expect, it } from 'vitest'
import { howOf } from './how.ts'

const fallback = 'rank 1: why'
const opaque = ['a', 'b'].map((name) => ({ name, reason: 'it is computed with: aten::add', rank: 0 }))

describe('the line about an update', () => {
  it.each<[string, string, DirectReport | undefined]>([
    ['broadcast', 'broadcast', undefined],
    ['p2p', 'p2p', undefined],
    ['direct', 'direct', { opaque: [] }],
    ['direct, except 2 of 9 tensors (it is computed with: aten::add)', 'direct', { opaque }],
    ["replayed by the worker's recording, 7 of 9 tensors: rank 1: why", 'broadcast', { opaque: [], fallback, replayed: 7 }],
    ['staged: rank 1: why', 'broadcast', { opaque: [], fallback }],
    [
      'staged, and recorded for the next update: rank 1: why',
      'broadcast',
      { opaque: [], fallback, recorded: 'recorded: 9 routes, 0 opaque tensors' },
    ],
    ['staged: rank 1: why; recording failed: w.0 changed', 'broadcast', { opaque: [], fallback, recorded: 'w.0 changed' }],
  ])('is "%s"', (line, strategy, direct) => {
    expect(howOf({ strategy, tensors: 9, ...(direct && { direct }) })).toBe(line)
  })
})
