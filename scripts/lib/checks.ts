import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { noResults, type Results } from './results.ts'
import { ROOT } from './root.mjs'
import { turbo, turboBuild } from './turbo.ts'

const RUNS = join(ROOT, '.turbo/runs')
/** Scripts of the root's package.json; turbo.json says what their results depend on. */
const CHECKS = [
  ...['typecheck', 'lint', 'format:check', 'format:native', 'python:check', 'arrows', 'hygiene'],
  ...['api:check', 'docs:check', 'release:quick'],
]

/** What is read of turbo's summary of a run. */
interface Summary {
  readonly tasks: readonly {
    readonly task: string
    readonly execution?: { readonly exitCode: number | null; readonly startTime: number; readonly endTime: number }
  }[]
}

/** The build, and all checks that are not tests, as tasks of turbo: one line each, and the output of those that fail. */
export async function checks(): Promise<Results> {
  const total = noResults()
  const build = await turboBuild()
  addCheck(total, 'build', build.code, build.output)
  const before = summaries()
  const flags = ['--continue', '--summarize', '--output-logs=full', '--log-order=grouped', '--log-prefix=task', '--no-color']
  const { output } = await turbo([...CHECKS.map((name) => `//#${name}`), ...flags, '--concurrency=2'])
  const [file] = summaries().filter((name) => !before.includes(name))
  if (file === undefined) throw new Error(`turbo ended without a summary:\n${output}`)
  const { tasks } = JSON.parse(readFileSync(join(RUNS, file), 'utf8')) as Summary
  rmSync(join(RUNS, file))
  for (const name of CHECKS) {
    const execution = tasks.find(({ task }) => task === name)?.execution
    const prefix = `//:${name}: `
    const log = output.split('\n').flatMap((line) => (line.startsWith(prefix) ? [line.slice(prefix.length)] : []))
    const seconds = execution === undefined ? undefined : (execution.endTime - execution.startTime) / 1000
    addCheck(total, name, execution?.exitCode ?? 1, log.join('\n'), seconds)
  }
  return total
}

function summaries(): string[] {
  return existsSync(RUNS) ? readdirSync(RUNS) : []
}

/** Prints what a check came to, and counts it. One that ended well but printed a line `SKIP what: reason` could not run here. */
function addCheck(total: Results, name: string, code: number, log: string, seconds?: number): void {
  const reason = code === 0 ? /^SKIP [^:]*: (.*)$/m.exec(log)?.[1] : undefined
  const state = code !== 0 ? 'FAIL' : reason === undefined ? 'PASS' : 'SKIP'
  process.stdout.write(
    `${state} ${name}${seconds === undefined ? '' : ` (${seconds.toFixed(1)} s)`}${reason ? `: ${reason}` : ''}\n`,
  )
  if (state === 'PASS') total.passed++
  if (reason !== undefined) total.skipped.push({ name: `check ${name}`, reason })
  if (state !== 'FAIL') return
  total.failures.push(`check ${name}`)
  process.stdout.write(`${log.trimEnd().replace(/^/gm, '     ')}\n`)
}
