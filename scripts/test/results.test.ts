import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it, vi } from 'vitest'
import { pythonLacks, pythonProgram } from '../lib/python.ts'
import { addResults, noResults, readJUnit, report } from '../lib/results.ts'
import { ROOT } from '../lib/root.mjs'
import { fixture } from './fixture.ts'

const WELL = { code: 0, signal: null }

/** Runs a test runner in a directory of these files, and reads the JUnit that it leaves in `out.xml`. */
function results(files: Record<string, string>, program: string, ...args: string[]) {
  using directory = fixture(files)
  const out = join(directory.path, 'out.xml')
  const env = { ...process.env, CKPT_JUNIT: out }
  const { status } = spawnSync(program, [...args], { cwd: directory.path, env, encoding: 'utf8' })
  return readJUnit([out], 'runner', { code: status ?? 1, signal: null })
}

describe('what vitest writes', () => {
  it('is read with the reasons of skips, and failures', { timeout: 60_000 }, () => {
    const vitest = join(ROOT, 'node_modules/vitest/vitest.mjs')
    const config = `
      import { JUnitWithReasons } from ${JSON.stringify(join(ROOT, 'scripts/lib/junit-reporter.ts'))}
      export default { test: { reporters: [new JUnitWithReasons({ outputFile: process.env.CKPT_JUNIT })] } }`
    const test = `
      import { beforeAll, describe, it } from ${JSON.stringify(join(ROOT, 'node_modules/vitest/dist/index.js'))}
      it('one "&<>"', () => {})
      it('two', (context) => context.skip('no GPU: "&<>"'))
      it.skip('three [skipped: no RDMA]', () => {})
      it.skip('four', () => {})
      describe('outer', () => it('five', () => { throw new Error('wrong') }))
      describe('broken', () => { beforeAll(() => { throw new Error('broken') }); it('six', () => {}) })`
    const found = results({ 'vitest.config.ts': config, 'a.test.ts': test }, process.execPath, vitest, 'run')
    expect(found.passed).toBe(1)
    expect(found.failures).toEqual(expect.arrayContaining(['a.test.ts > outer > five', expect.stringContaining('broken')]))
    expect(found.skipped.slice(0, 3)).toEqual([
      { name: 'a.test.ts > two', reason: 'no GPU: "&<>"' },
      { name: 'a.test.ts > three [skipped: no RDMA]', reason: 'no RDMA' },
      { name: 'a.test.ts > four', reason: 'no reason given' },
    ])
  })
})

describe('what pytest writes', () => {
  it('is read with the reasons of skips, errors as failures, and expected failures as passes', (context) => {
    const lacks = pythonLacks(['pytest'])
    if (lacks !== undefined) context.skip(lacks)
    const tests = [
      'import pytest',
      'def test_one(): pass',
      'def test_two(): assert 1 == 2',
      'def test_three(): pytest.skip("no GPU here")',
      '@pytest.mark.xfail(reason="not yet")\ndef test_four(): assert False',
      '@pytest.fixture\ndef broken(): raise RuntimeError("broken")',
      'def test_five(broken): pass',
    ]
    expect(results({ 'test_a.py': tests.join('\n') }, pythonProgram, '-m', 'pytest', '-q', '--junitxml=out.xml')).toEqual({
      passed: 2,
      failures: ['test_a > test_two', 'test_a > test_five'],
      skipped: [{ name: 'test_a > test_three', reason: 'no GPU here' }],
    })
  })
})

describe('what CTest writes', () => {
  it('is read with failures', (context) => {
    if (spawnSync('ctest', ['--version']).status !== 0) context.skip('ctest is missing; apt-get install cmake')
    const tests = 'add_test(one true)\nadd_test("two, three" false)\n'
    expect(results({ 'CTestTestfile.cmake': tests }, 'ctest', '--output-junit', 'out.xml')).toEqual({
      passed: 1,
      failures: ['two, three > two, three'],
      skipped: [],
    })
  })
})

describe('readJUnit', () => {
  it.each([
    ['no file', undefined],
    ['an empty file', ''],
    ['a file without tests', '<testsuites><testsuite/></testsuites>'],
    ['half a file', '<testsuites><testsuite><testcase name="a"'],
  ])('counts a runner that died with %s as a failure', (_, text) => {
    using files = fixture(text === undefined ? {} : { 'a.xml': text })
    expect(existsSync(join(files.path, 'a.xml'))).toBe(text !== undefined)
    const { passed, failures } = readJUnit([join(files.path, 'a.xml')], 'runner', { code: 1, signal: 'SIGKILL' })
    expect({ passed, failures }).toEqual({ passed: 0, failures: ['runner: ended without results (SIGKILL)'] })
  })

  it('does not lose an exit code that the results do not explain', () => {
    using files = fixture({ 'a.xml': '<testsuite><testcase name="a"/></testsuite>' })
    const file = join(files.path, 'a.xml')
    expect(readJUnit([file], 'runner', WELL)).toEqual({ passed: 1, failures: [], skipped: [] })
    expect(readJUnit([file], 'runner', { code: 3, signal: null }).failures).toEqual(['runner: exit code 3'])
  })

  it('takes thousands of tests and of escaped characters', () => {
    const cases = Array.from({ length: 20_000 }, (_, i) => `<testcase name="&lt;${i}&gt;&amp;&quot;"/>`)
    using files = fixture({ 'a.xml': `<testsuite>${cases.join('')}</testsuite>` })
    expect(readJUnit([join(files.path, 'a.xml')], 'runner', WELL).passed).toBe(20_000)
  })
})

it('report ends with the counts, and fails where anything failed', () => {
  const lines: string[] = []
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => lines.push(String(text)) > 0)
  try {
    const total = noResults()
    addResults(total, { passed: 3, failures: [], skipped: [{ name: 'a', reason: 'no GPU' }] })
    expect(report(total)).toBe(0)
    expect(lines.join('')).toContain('  - no GPU\n      a\n')
    addResults(total, { passed: 4, failures: ['b'], skipped: [{ name: 'c', reason: 'no GPU' }] })
    expect(report(total)).toBe(1)
  } finally {
    write.mockRestore()
  }
  expect(lines.join('').trimEnd().split('\n').at(-1)).toBe('7 passed, 1 failed, 2 skipped')
})
