import { existsSync, readFileSync } from 'node:fs'
import { XMLParser } from 'fast-xml-parser'

/** What one or several runners came to. */
export interface Results {
  passed: number
  readonly failures: string[]
  readonly skipped: { readonly name: string; readonly reason: string }[]
}

/** How a runner ended. */
export interface Ended {
  readonly code: number
  readonly signal: NodeJS.Signals | null
}

/** What is read of JUnit's elements; attributes begin with `@`. */
interface TestCase {
  readonly '@name': string
  readonly '@classname'?: string
  readonly failure?: unknown
  readonly error?: unknown
  readonly skipped?: string | { readonly '@message'?: string; readonly '@type'?: string }
  readonly properties?: { readonly property: readonly Record<'@name' | '@value', string>[] }
}
interface TestSuite {
  readonly testcase?: readonly TestCase[]
}
interface Document {
  readonly testsuites?: { readonly testsuite?: readonly TestSuite[] }
  readonly testsuite?: readonly TestSuite[]
}

const PARSER = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  parseAttributeValue: false,
  isArray: (name) => ['testsuite', 'testcase', 'property'].includes(name),
})

export function noResults(): Results {
  return { passed: 0, failures: [], skipped: [] }
}

/** Adds the results of one runner to the total. */
export function addResults(total: Results, { passed, failures, skipped }: Results): void {
  total.passed += passed
  total.failures.push(...failures)
  total.skipped.push(...skipped)
}

/**
 * Reads the JUnit files of a runner. A file that is missing or has no tests, and an exit code that its results do not explain, count as failures.
 * @param what name of the runner, for such a failure
 */
export function readJUnit(files: readonly string[], what: string, { code, signal }: Ended): Results {
  const results = noResults()
  const how = signal ?? `exit code ${code}`
  for (const file of files) {
    const cases = existsSync(file) ? casesOf(readFileSync(file, 'utf8')) : []
    if (cases.length === 0) results.failures.push(`${what}: ended without results (${how})`)
    for (const one of cases) addCase(results, one)
  }
  if (code !== 0 && results.failures.length === 0) results.failures.push(`${what}: ${how}`)
  return results
}

/** None where the text is not whole: its writer died. */
function casesOf(xml: string): TestCase[] {
  if (!/<\/testsuites?>\s*$/.test(xml)) return []
  const { testsuites, testsuite } = PARSER.parse(xml) as Document
  return [...(testsuites?.testsuite ?? []), ...(testsuite ?? [])].flatMap((suite) => suite.testcase ?? [])
}

function addCase(results: Results, one: TestCase): void {
  const name = [one['@classname'], one['@name']].filter((part) => part).join(' > ')
  const { failure, error, skipped } = one
  if (failure !== undefined || error !== undefined) results.failures.push(name)
  // pytest reports a failure that was expected as a skip.
  else if (skipped === undefined || (typeof skipped === 'object' && skipped['@type'] === 'pytest.xfail')) results.passed++
  else results.skipped.push({ name, reason: reasonOf(one) })
}

/** Reason of a skip: its message, a property that vitest's reporter was given, or a part of the name such as `[skipped: no GPU]`. */
function reasonOf({ '@name': name, skipped, properties }: TestCase): string {
  const message = typeof skipped === 'object' ? skipped['@message'] : undefined
  const property = properties?.property.find((one) => one['@name'] === 'skipped')?.['@value']
  return message || (property ?? /\[skipped: (.*?)\]/.exec(name)?.[1] ?? 'no reason given')
}

/** Prints what failed, what was skipped by its reason, and the line that every run ends with. Returns the exit code. */
export function report({ passed, failures, skipped }: Results): number {
  const list = (items: readonly string[], indent: string) => items.map((what) => `${indent}${what}\n`).join('')
  if (failures.length > 0) process.stdout.write(`\nFailed:\n${list(failures, '  - ')}`)
  if (skipped.length > 0) process.stdout.write('\nNot run on this machine:\n')
  for (const reason of new Set(skipped.map((one) => one.reason))) {
    const names = skipped.filter((one) => one.reason === reason).map(({ name }) => name)
    process.stdout.write(`  - ${reason}\n${list(names, '      ')}`)
  }
  process.stdout.write(`\n${passed} passed, ${failures.length} failed, ${skipped.length} skipped\n`)
  return failures.length > 0 ? 1 : 0
}
