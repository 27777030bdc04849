import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { PAGES, quotedTestProblems } from '../lib/quoted-tests.mjs'
import { ROOT } from '../lib/root.mjs'

describe('pages that name tests', () => {
  it.each(PAGES)('%s names tests and fuzzers that exist', (page) => {
    const text = readFileSync(join(ROOT, page), 'utf8')
    expect(text).toMatch(/`(apps|packages)\/[^`]*\.test\.ts`/)
    expect(quotedTestProblems(page, text)).toEqual([])
  })

  it('are found out where a file, a name or a fuzzer is gone', () => {
    const here = '`scripts/test/quoted-tests.test.ts`'
    expect(
      quotedTestProblems('p', `${here}: "are found out where … is gone", "%s names tests and fuzzers that exist"`),
    ).toEqual([])
    // Put together, so that this file does not have it.
    const none = ['no', 'such', 'name'].join(' ')
    expect(quotedTestProblems('p', `${here}: "${none}"; \`packages/none.test.ts\`; fuzzers \`http\`, \`none\``)).toEqual([
      expect.stringContaining(none),
      expect.stringContaining('packages/none.test.ts'),
      expect.stringContaining('`none`'),
    ])
  })
})
