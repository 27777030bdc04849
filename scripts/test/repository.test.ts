import { execFileSync } from 'node:child_process'
import { symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import getReleasePlan from '@changesets/get-release-plan'
import { hygieneProblems } from '../lib/hygiene.ts'
import { fixture } from './fixture.ts'

describe('hygieneProblems', () => {
  it('finds paths of one machine, links, unresolved merges and long files', () => {
    const home = ['', 'home', 'someone', 'file'].join('/')
    using files = fixture({
      'a.ts': `export const path = '${home}'\n`,
      'long.py': 'x = 1\n'.repeat(401),
      'tests/long.py': 'x = 1\n'.repeat(451),
      'tests/right.py': 'x = 1\n'.repeat(450),
      'merged.h': `int a;\n${'<'.repeat(7)} HEAD\n`,
      'right.py': 'x = 1\n'.repeat(400),
      'fine.md': 'Relative paths such as docs/home/page and https://example.org/home/page are fine.\n',
    })
    symlinkSync('a.ts', join(files.path, 'link.ts'))
    execFileSync('git', ['init', '-q'], { cwd: files.path })
    expect(hygieneProblems(files.path)).toEqual([
      `a.ts:1: names a path of one machine: export const path = '${home}'`,
      'link.ts: is a symbolic link',
      'long.py: 401 lines, more than 400; split it by what it holds',
      'merged.h:2: a merge was left unresolved',
      'tests/long.py: 451 lines, more than 450; split it by what it holds',
    ])
  })
})

describe('changesets', () => {
  const repository = (changeset: string) =>
    fixture({
      'package.json': '{ "name": "root", "private": true }',
      'pnpm-workspace.yaml': 'packages: [packages/*]\n',
      'packages/a/package.json': '{ "name": "@x/a", "version": "1.0.0" }',
      '.changeset/config.json': '{ "baseBranch": "main" }',
      '.changeset/one.md': changeset,
    })

  it('are taken where they are right', async () => {
    using files = repository(`---\n'@x/a': minor\n---\n\nSomething new.\n`)
    const { releases } = await getReleasePlan(files.path)
    expect(releases).toMatchObject([{ name: '@x/a', type: 'minor', newVersion: '1.1.0' }])
  })

  it.each([
    [`---\n'@x/c': minor\n---\n\nText\n`, '@x/c'],
    [`---\n'@x/a': : minor\n---\n\nText\n`, 'YAML'],
    ['Text\n', 'Text'],
  ])('are refused: %j', async (changeset, problem) => {
    using files = repository(changeset)
    await expect(getReleasePlan(files.path)).rejects.toThrow(problem)
  })
})
