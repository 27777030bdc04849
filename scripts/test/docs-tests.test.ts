import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** Pages whose tables name, in their last column, the test that shows what a row says: `file`: "name", the name with … for what varies. */
const PAGES = ['docs/known-faults.md']
const TEST = /`([\w./-]+(?:\.test\.ts|\/test_\w+\.py|_test\.cc))`|"([^"]+)"/g

interface Named {
  readonly row: string
  readonly file: string
  readonly name: string | undefined
}

/** What rows of tables name in their last column. */
function testsNamed(page: string): Named[] {
  const found: Named[] = []
  for (const line of page.split('\n')) {
    if (!/^\| (?!-|Kind|Attack)/.test(line)) continue
    const cells = line.split(/(?<!\\)\|/).slice(1, -1)
    let file: string | undefined
    for (const [, path, name] of cells.at(-1)!.matchAll(TEST)) {
      if (path !== undefined) file = path
      if (file !== undefined) found.push({ row: cells[0]!.trim(), file, name })
    }
  }
  return found
}

/** Why a test cannot be found, if it cannot. */
function missing({ row, file, name }: Named): string | undefined {
  const path = join(ROOT, file)
  if (!existsSync(path)) return `${row}: there is no ${file}`
  const text = readFileSync(path, 'utf8')
  const parts = (name ?? '').split('…').map((part) => part.trim())
  return parts.every((part) => text.includes(part)) ? undefined : `${row}: ${file} has no ${name}`
}

describe('pages that name tests', () => {
  it.each(PAGES)('%s names tests that are there', (page) => {
    const named = testsNamed(readFileSync(join(ROOT, page), 'utf8'))
    expect(named.length).toBeGreaterThan(10)
    expect(named.flatMap((one) => missing(one) ?? [])).toEqual([])
  })

  it('would say so, were one not', () => {
    const row = (cell: string) => testsNamed(`| Kind | Held by |\n| --- | --- |\n| a fault | ${cell} |`).map(missing)
    expect(row('`scripts/test/docs-tests.test.ts`: "pages that … tests"')).toEqual([undefined, undefined])
    expect(row('`scripts/test/no.test.ts`')).toEqual(['a fault: there is no scripts/test/no.test.ts'])
    const absent = ['no', 'such', 'name'].join(' ')
    expect(row(`\`scripts/test/docs-tests.test.ts\`: "${absent}"`)[1]).toContain(`has no ${absent}`)
  })
})
