import { lstatSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { trackedFiles } from './files.mjs'
import { ROOT } from './root.mjs'

const SOURCE = /[.](ts|mjs|cjs|cc|cpp|h|hpp|cu|cuh|py)$/
const TEXT =
  /[.](ts|mjs|cjs|js|json|md|cc|cpp|h|hpp|cu|cuh|py|toml|yaml|yml|txt|cmake|sh)$|(^|\/)(Dockerfile|run|CMakeLists[.]txt)$/
const MAX_LINES = 450

/** Files that may be symbolic links. */
const LINKS = new Set([])
const CONFLICT = /^(<{7}|>{7}) /
// Paths of one machine. Split, so that this file does not match itself.
const MACHINE_PATH = new RegExp(`(?<![\\w.~$}/-])/(${['wo' + 'rk', 'ro' + 'ot', 'ho' + 'me'].join('|')})/[\\w.-]`)

/** What is wrong with the files of the repository: paths of one machine, links, unresolved merges, files that are too long. */
export function hygieneProblems(root = ROOT) {
  return trackedFiles(root).flatMap((file) => {
    const path = join(root, file)
    if (lstatSync(path).isSymbolicLink()) return LINKS.has(file) ? [] : [`${file}: is a symbolic link`]
    if (!TEXT.test(file) || file === 'pnpm-lock.yaml') return []
    const lines = readFileSync(path, 'utf8').split('\n')
    const conflict = lines.findIndex((line) => CONFLICT.test(line))
    const problems = lines.flatMap((line, index) =>
      MACHINE_PATH.test(line) ? [`${file}:${index + 1}: names a path of one machine: ${line.trim().slice(0, 120)}`] : [],
    )
    if (conflict !== -1) problems.push(`${file}:${conflict + 1}: a merge was left unresolved`)
    const count = lines.at(-1) === '' ? lines.length - 1 : lines.length
    if (SOURCE.test(file) && count > MAX_LINES) {
      problems.push(`${file}: ${count} lines, more than ${MAX_LINES}; split it by what it holds`)
    }
    return problems
  })
}
