import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8')

it('docs/operations.md has a cause and a remedy for every error code, and no other codes', () => {
  const source = /ERROR_CODES = \{(.*?)\n\} as const/s.exec(read('packages/contract/src/errors.ts'))![1]!
  const codes = [...source.matchAll(/^ {2}([A-Z_]+):/gm)].map(([, code]) => code!)
  expect(codes.length).toBeGreaterThan(20)
  const rows = [...read('docs/operations.md').matchAll(/^\| `([A-Z][A-Z_]+)` +\| +(\S.*?) +\| +(\S.*?) +\|$/gm)]
  expect(rows.map(([, code]) => code).sort()).toEqual(codes.sort())
})

it('docs/operations.md names every number that is served', () => {
  const source = read('packages/server/src/metrics/update-metrics.ts')
  const names = [...source.matchAll(/'(ckpt_\w+)'/g)].map(([, name]) => name!)
  expect(names.length).toBeGreaterThan(15)
  const text = read('docs/operations.md')
  for (const name of names) expect(text).toMatch(new RegExp(`\`${name}\`|${name.replace('_bytes', '')}`))
})
