import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { targets } from '../fuzz/targets.mjs'
import { ROOT } from './root.mjs'

const FILE = /^(apps|packages|native|scripts)\/[\w./-]+\.(ts|mjs|py|cc)$/

/** Files, names of tests and fuzzers that a page quotes and the tree does not have. */
export function quotedTestProblems(page, text, root = ROOT) {
  const problems = []
  const fuzzers = new Set(targets().map(({ name }) => name))
  for (const line of text.split('\n')) {
    let source
    for (const [, code, name] of line.matchAll(/`([^`]+)`|"([^"]+)"/g)) {
      if (code !== undefined && FILE.test(code)) {
        source = existsSync(join(root, code)) ? readFileSync(join(root, code), 'utf8') : undefined
        if (source === undefined) problems.push(`${page}: ${code} does not exist`)
      } else if (name !== undefined && source !== undefined && !hasTest(source, name)) {
        problems.push(`${page}: no test is called "${name}" in the file named before it`)
      }
    }
    for (const [, target] of line.matchAll(/\]\(((?:apps|packages|native|scripts)\/[^)#]+)\)/g)) {
      if (!existsSync(join(root, target))) problems.push(`${page}: ${target} does not exist`)
    }
    for (const [, names] of line.matchAll(/fuzzers? ((?:`[\w-]+`(?:, | and )?)+)/g)) {
      for (const [, name] of names.matchAll(/`([\w-]+)`/g)) {
        if (!fuzzers.has(name)) problems.push(`${page}: there is no fuzzer \`${name}\``)
      }
    }
  }
  return problems
}

/** True if a string or a function of `source` has the name; `…` stands for anything within a line. */
function hasTest(source, name) {
  const parts = name.split('…').map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`))
  return new RegExp(parts.join('[^\\n]*')).test(source)
}
