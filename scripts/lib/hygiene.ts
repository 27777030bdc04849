import { execFileSync } from 'node:child_process'
import { existsSync, lstatSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './root.mjs'

/** Sources whose length ESLint does not look at, and tests among them. */
const SOURCE = /[.](cc|cpp|h|hpp|cu|cuh|py)$/
const TEST = /(^|\/)tests?\//
const TEXT =
  /[.](ts|mjs|cjs|js|json|md|cc|cpp|h|hpp|cu|cuh|py|toml|yaml|yml|txt|cmake|sh)$|(^|\/)(Dockerfile|run|CMakeLists[.]txt)$/
/** As for ESLint's max-lines. */
const MAX_LINES = { source: 400, test: 450 }

const CONFLICT = /^(<{7}|>{7}) /
// Paths of one machine. Split, so that this file does not match itself.
const MACHINE_PATH = new RegExp(`(?<![\\w.~$}/-])/(${['wo' + 'rk', 'ro' + 'ot', 'ho' + 'me'].join('|')})/[\\w.-]`)

/** What is wrong with the files of the repository: paths of one machine, links, unresolved merges, files that are too long. */
export function hygieneProblems(root = ROOT): string[] {
  return trackedFiles(root).flatMap((file) => {
    const path = join(root, file)
    if (lstatSync(path).isSymbolicLink()) return [`${file}: is a symbolic link`]
    if (!TEXT.test(file) || file === 'pnpm-lock.yaml') return []
    const lines = readFileSync(path, 'utf8').split('\n')
    const conflict = lines.findIndex((line) => CONFLICT.test(line))
    const problems = lines.flatMap((line, index) =>
      MACHINE_PATH.test(line) ? [`${file}:${index + 1}: names a path of one machine: ${line.trim().slice(0, 120)}`] : [],
    )
    if (conflict !== -1) problems.push(`${file}:${conflict + 1}: a merge was left unresolved`)
    const count = lines.at(-1) === '' ? lines.length - 1 : lines.length
    const limit = MAX_LINES[TEST.test(file) ? 'test' : 'source']
    if (SOURCE.test(file) && count > limit) {
      problems.push(`${file}: ${count} lines, more than ${limit}; split it by what it holds`)
    }
    return problems
  })
}

/** Files of the repository, new ones included unless git ignores them; paths relative to the root. */
export function trackedFiles(root = ROOT): string[] {
  const list = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  return [...new Set(list.split('\0'))].filter((file) => file !== '' && existsSync(join(root, file)))
}
