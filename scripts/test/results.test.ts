import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { call, fixture, ROOT } from './call.ts'

describe('parsePytest', () => {
  it('reads counts, reasons and failures', () => {
    const output = [
      'tests/test_a.py ..s.F [100%]',
      'SKIPPED [2] tests/test_a.py:12: no GPU here',
      'FAILED tests/test_a.py::test_b - AssertionError: 1 == 2',
      '\u001b[31m===== \u001b[31m\u001b[1m1 failed\u001b[0m, \u001b[32m3 passed\u001b[0m, \u001b[33m2 skipped\u001b[0m\u001b[31m in 0.12s\u001b[0m =====',
    ].join('\n')
    expect(call('results.mjs', 'parsePytest', output)).toEqual({
      passed: 3,
      failed: 1,
      skipped: [
        { name: 'tests/test_a.py:12', reason: 'no GPU here' },
        { name: 'tests/test_a.py:12', reason: 'no GPU here' },
      ],
      failures: ['tests/test_a.py::test_b'],
    })
  })

  it('counts errors as failures', () => {
    expect(call('results.mjs', 'parsePytest', 'ERROR tests/a.py\n2 errors in 1.00s')).toMatchObject({ passed: 0, failed: 2 })
  })

  it('adds the runs of several distributions', () => {
    const output =
      '2 failed, 3 passed, 1 skipped in 5.02s\nSKIPPED [1] tests/a.py:3: no GPU\n60 passed, 1 error in 0.50s (0:00:00)'
    expect(call('results.mjs', 'parsePytest', output)).toMatchObject({
      passed: 63,
      failed: 3,
      skipped: [{ name: 'tests/a.py:3', reason: 'no GPU' }],
    })
  })

  it('does not take other text for a summary', () => {
    expect(call('results.mjs', 'parsePytest', 'ModuleNotFoundError: pytest')).toBeNull()
  })
})

describe('parseLines', () => {
  it('reads states, and reasons of what was skipped', () => {
    expect(call('results.mjs', 'parseLines', 'noise\nPASS a: b\nFAIL c: d\nSKIP e: no g++: install it\nPASSED x\n')).toEqual({
      passed: 1,
      failed: 1,
      failures: ['c: d'],
      skipped: [{ name: 'e', reason: 'no g++: install it' }],
    })
  })
})

describe('sum-results', () => {
  const sum = (...args: string[]) => {
    const { status, stdout } = spawnSync(process.execPath, [join(ROOT, 'scripts/sum-results.mjs'), ...args], {
      encoding: 'utf8',
    })
    return { status, last: stdout.trimEnd().split('\n').at(-1) }
  }
  const results = (passed: number, failed: number, skipped: number) =>
    JSON.stringify({ passed, failed, failures: [], skipped: Array.from({ length: skipped }, () => ({ name: 'x' })) })

  it('adds', () => {
    using files = fixture({ a: results(3, 0, 1), b: results(4, 0, 2) })
    expect(sum(`a:0:${files.path}/a`, `b:0:${files.path}/b`)).toEqual({ status: 0, last: '7 passed, 0 failed, 3 skipped' })
  })

  it('counts a runner that failed or died without saying so', () => {
    using files = fixture({ a: results(3, 0, 0) })
    expect(sum(`a:1:${files.path}/a`, `b:137:${files.path}/b`)).toEqual({ status: 1, last: '3 passed, 2 failed, 0 skipped' })
  })
})
