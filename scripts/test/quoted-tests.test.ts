import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { ROOT } from '../lib/root.mjs'
import { quotedTestProblems as problems, unprovenProblems as unproven } from './quoted-tests.ts'

describe('pages that name tests', () => {
  it.each(['SECURITY.md', 'docs/security.md', 'docs/known-faults.md'])('%s names tests and fuzzers that exist', (page) => {
    const text = readFileSync(join(ROOT, page), 'utf8')
    expect(text).toMatch(/`(apps|packages)\/[^`]*\.test\.ts`/)
    expect(problems(page, text)).toEqual([])
  })

  it.each([
    ['SECURITY.md', ['What keeps strangers out']],
    ['docs/security.md', ['What was decided']],
  ] as const)('%s promises nothing that no test follows, unless it says why', (page, sections) => {
    const text = readFileSync(join(ROOT, page), 'utf8')
    for (const section of sections) expect(text).toContain(`## ${section}\n`)
    expect(unproven(page, text, sections)).toEqual([])
  })

  it('are found out where a row or a sentence has no test', () => {
    const page = [
      '## Promises\n',
      'All is well ([test](packages/a/src/a.test.ts)). So is this, `apps/h/src/b.test.ts`: "does it", "and that".\n',
      'Proven ([test](packages/a/src/a.test.ts)). Never proven.\n',
      '- Not at all,\n  on two lines.',
      '- Said (no test: it is about people).',
      '- Fuzzed, fuzzer `http`.\n',
      '| Attack | Test |\n| --- | --- |\n| one | `native/host/test/x_test.cc` |\n| two | much care |\n| three | (no test: why) |\n',
      '| Asset | Must |\n| --- | --- |\n| weights | stay |\n',
      '## Others\n\nAnything.\n',
    ].join('\n')
    expect(unproven('p', page, ['Promises'])).toEqual([
      expect.stringContaining('"Never proven.'),
      expect.stringContaining('"- Not at all, on two lines.'),
      expect.stringContaining('the row "two"'),
    ])
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
