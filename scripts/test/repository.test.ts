import { execFileSync } from 'node:child_process'
import { symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { call, fixture } from './call.ts'

describe('hygieneProblems', () => {
  it('finds paths of one machine, links, unresolved merges and long files', () => {
    const home = ['', 'home', 'someone', 'file'].join('/')
    using files = fixture({
      'a.ts': `export const path = '${home}'\n`,
      'long.py': 'x = 1\n'.repeat(451),
      'merged.h': `int a;\n${'<'.repeat(7)} HEAD\n`,
      'right.py': 'x = 1\n'.repeat(450),
      'fine.md': 'Relative paths such as docs/home/page and https://example.org/home/page are fine.\n',
    })
    symlinkSync('a.ts', join(files.path, 'link.ts'))
    execFileSync('git', ['init', '-q'], { cwd: files.path })
    expect(call('hygiene.mjs', 'hygieneProblems', files.path)).toEqual([
      `a.ts:1: names a path of one machine: export const path = '${home}'`,
      'link.ts: is a symbolic link',
      'long.py: 451 lines, more than 450; split it by what it holds',
      'merged.h:2: a merge was left unresolved',
    ])
  })
})

describe('changesetProblems', () => {
  const repository = (changeset: string) =>
    fixture({
      'packages/a/package.json': '{ "name": "@x/a" }',
      'apps/b/package.json': '{ "name": "@x/b", "private": true }',
      '.changeset/one.md': changeset,
    })

  it('takes a good one', () => {
    using files = repository(`---\n'@x/a': minor\n---\n\nSomething new.\n`)
    expect(call('changesets.mjs', 'changesetProblems', files.path)).toEqual([])
  })

  it.each([
    [`---\n'@x/c': minor\n---\n\nText\n`, 'no package @x/c'],
    [`---\n'@x/b': minor\n---\n\nText\n`, 'private'],
    [`---\n'@x/a': huge\n---\n\nText\n`, 'is not'],
    [`---\n'@x/a': patch\n---\n\n`, 'does not say'],
    ['Text\n', 'block'],
  ])('refuses %j', (changeset, problem) => {
    using files = repository(changeset)
    expect(call('changesets.mjs', 'changesetProblems', files.path)).toEqual([expect.stringContaining(problem)])
  })
})

describe('withLock', () => {
  it('keeps a second process out and takes over from one that is gone', () => {
    using files = fixture({ 'stale.lock': '2147480000' })
    const url = new URL('../lib/lock.mjs', import.meta.url).href
    const code = `import { withLock } from ${JSON.stringify(url)}
import { appendFileSync } from 'node:fs'
await withLock('stale.lock', async () => {
  appendFileSync('log', 'in ')
  await new Promise((resolve) => setTimeout(resolve, 200))
  appendFileSync('log', 'out ')
})`
    const shell = `for i in 1 2 3; do "$NODE" --input-type=module -e "$CODE" & done; wait; cat log; test ! -e stale.lock`
    const log = execFileSync('sh', ['-c', shell], {
      cwd: files.path,
      env: { ...process.env, NODE: process.execPath, CODE: code },
      encoding: 'utf8',
    })
    expect(log).toBe('in out in out in out ')
  })
})
