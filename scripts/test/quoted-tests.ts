import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { targets } from '../../apps/harness/src/fuzz/targets.ts'
import { ROOT } from '../lib/root.mjs'

const FILE = /^(apps|packages|native|scripts)\/[\w./-]+\.(ts|mjs|py|cc)$/

/** Files, names of tests and fuzzers that a page quotes and the tree does not have. */
export function quotedTestProblems(page: string, text: string, root = ROOT): string[] {
  const problems: string[] = []
  const fuzzers = new Set(targets().map(({ name }) => name))
  for (const line of text.split('\n')) {
    let source: string | undefined
    for (const [, code, name] of line.matchAll(/`([^`]+)`|"([^"]+)"/g)) {
      if (code !== undefined && FILE.test(code)) {
        source = existsSync(join(root, code)) ? readFileSync(join(root, code), 'utf8') : undefined
        if (source === undefined) problems.push(`${page}: ${code} does not exist`)
      } else if (name !== undefined && source !== undefined && !hasTest(source, name)) {
        problems.push(`${page}: no test is called "${name}" in the file named before it`)
      }
    }
    for (const [, target] of line.matchAll(/\]\(((?:apps|packages|native|scripts)\/[^)#]+)\)/g)) {
      if (!existsSync(join(root, target!))) problems.push(`${page}: ${target} does not exist`)
    }
    for (const [, names] of line.matchAll(/fuzzers? ((?:`[\w-]+`(?:, | and )?)+)/g)) {
      for (const [, name] of names!.matchAll(/`([\w-]+)`/g)) {
        if (!fuzzers.has(name!)) problems.push(`${page}: there is no fuzzer \`${name}\``)
      }
    }
  }
  return problems
}

/** Where a page stands in for a proof: a test's file, a link to one, a fuzzer, or the reason why there is none. */
const PROOF =
  /`(?:apps|packages|native|scripts)\/[\w./-]*(?:[.-]|_)(?:test|fuzz|pytest)[\w.-]*`|`packages\/[\w./-]*\/(?:tests?|fuzz)\/[\w.-]+`|\]\((?:[.][.]\/)?(?:apps|packages|native|scripts)\/[^)]*\)|fuzzers? `[\w-]+`|\(no test: [^)]+\)/

/**
 * Promises of a page that no test follows: rows of tables with a column "Test" whose cell names none; and, in the sections named, sentences
 * after the last test of their paragraph or list item. "(no test: why)" is an answer too.
 * @param sections headings whose every sentence is a promise
 */
export function unprovenProblems(page: string, text: string, sections: readonly string[]): string[] {
  const problems: string[] = []
  let heading = ''
  let column = -1
  const all = blocks(text)
  for (const [at, block] of all.entries()) {
    const cells = block.startsWith('|') ? block.split('|').map((cell) => cell.trim()) : undefined
    if (block.startsWith('#')) heading = block.replace(/^#+ */, '')
    else if (cells !== undefined && RULE.test(all[at + 1] ?? '')) column = cells.indexOf('Test')
    else if (cells !== undefined) {
      if (column > 0 && !RULE.test(block) && !PROOF.test(cells[column] ?? ''))
        problems.push(`${page}: the row "${cells[1]}" names no test; "(no test: why)" is an answer too`)
    } else if (sections.includes(heading)) {
      // What stands behind a file: names of its tests, and marks.
      const unproven = block
        .split(PROOF)
        .at(-1)!
        .replace(/^([\s).,;:…]|and\b|"[^"]*")*/, '')
      if (unproven !== '')
        problems.push(`${page}: no test follows "${unproven.slice(0, 100)}"; "(no test: why)" is an answer too`)
    }
  }
  return problems
}

/** Line under a table's head. */
const RULE = /^\|( *:?-+:? *\|)+$/

/** Headings, rows of tables, list items and paragraphs, each on one line. */
function blocks(text: string): string[] {
  return text
    .split(/\n(?=\||#|- )|\n\n+/)
    .map((block) => block.replace(/\s+/g, ' ').trim())
    .filter((block) => block !== '')
}

/** True if a string or a function of `source` has the name; `…` stands for anything within a line. */
function hasTest(source: string, name: string): boolean {
  const parts = name.split('…').map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`))
  return new RegExp(parts.join('[^\\n]*')).test(source)
}
