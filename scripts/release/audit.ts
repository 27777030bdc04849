import { run } from '../lib/process.mjs'

/** What is read of `npm audit --json`. */
interface Report {
  readonly message?: string
  readonly error?: { readonly summary?: string; readonly code?: string }
  readonly vulnerabilities?: Readonly<
    Record<string, { readonly name: string; readonly severity: string; readonly range: string }>
  >
  readonly metadata?: { readonly vulnerabilities?: object; readonly dependencies?: { readonly total?: number } }
}

/** What a step found, or why it could not look. */
export type Finding = string | { readonly skipped: string }

/** Severities that stop a release. */
const STOPS = ['high', 'critical']

/**
 * Asks the registry for known vulnerabilities of what a user would install. A registry that has no such answers (a mirror, no network) stops
 * nothing.
 *
 * @param project directory with an installed project
 * @returns what was found, or why nothing is known
 * @throws Error naming packages with vulnerabilities of severity high or critical
 */
export async function audit(project: string): Promise<Finding> {
  const { output } = await run('npm', ['audit', '--omit=dev', '--json', '--fetch-retries=0', '--fetch-timeout=20000'], {
    cwd: project,
    capture: true,
  })
  return auditResult(output)
}

/** What `npm audit --json` printed, as {@link audit} returns or throws it. */
export function auditResult(output: string): Finding {
  const report = parse(output)
  if (report?.metadata?.vulnerabilities === undefined || report.vulnerabilities === undefined) {
    const why = report?.message ?? report?.error?.summary ?? report?.error?.code ?? output.trim().split('\n')[0]!
    return { skipped: `the registry does not tell known vulnerabilities, so none were looked for: ${why.slice(0, 200)}` }
  }
  const found = Object.values(report.vulnerabilities)
  const bad = found.filter(({ severity }) => STOPS.includes(severity))
  if (bad.length > 0) throw new Error(bad.map(({ name, severity, range }) => `${name} ${range}: ${severity}`).join('\n'))
  const { total } = report.metadata.dependencies ?? {}
  return `${found.length} vulnerabilities below ${STOPS[0]} in ${total ?? 'the'} packages`
}

function parse(output: string): Report | undefined {
  try {
    return JSON.parse(output.slice(output.indexOf('{'), output.lastIndexOf('}') + 1)) as Report
  } catch {
    return undefined
  }
}
