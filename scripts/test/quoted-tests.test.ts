import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { call, ROOT } from './call.ts'

const problems = (page: string, text: string) => call('quoted-tests.mjs', 'quotedTestProblems', page, text)

describe('pages that name tests', () => {
  it.each(['SECURITY.md', 'docs/security.md', 'docs/known-faults.md'])('%s names tests and fuzzers that exist', (page) => {
    const text = readFileSync(join(ROOT, page), 'utf8')
    expect(text).toMatch(/`(apps|packages)\/[^`]*\.test\.ts`/)
    expect(problems(page, text)).toEqual([])
  })

  it('are found out where a file, a name or a fuzzer is gone', () => {
    const here = '`scripts/test/quoted-tests.test.ts`'
    expect(problems('p', `${here}: "are found out where … is gone", "%s names tests and fuzzers that exist"`)).toEqual([])
    // Put together, so that this file does not have it.
    const none = ['no', 'such', 'name'].join(' ')
    expect(problems('p', `${here}: "${none}"; \`packages/none.test.ts\`; fuzzers \`http\`, \`none\``)).toEqual([
      expect.stringContaining(none),
      expect.stringContaining('packages/none.test.ts'),
      expect.stringContaining('`none`'),
    ])
  })
})
