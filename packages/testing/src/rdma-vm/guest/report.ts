/** Report of the guest to the host: one PASS or FAIL line per test. */
import { execFileSync } from 'node:child_process'
import { isDeepStrictEqual } from 'node:util'

let failed = 0

/** Runs a test. Its result goes into its line; an exception fails it. Other tests still run. */
export async function test(name: string, body: () => Promise<string | void>): Promise<void> {
  const start = performance.now()
  try {
    const note = await body()
    console.log(`PASS ${name} (${seconds(start)} s${note ? `, ${note}` : ''})`)
  } catch (error) {
    failed++
    const text = error instanceof Error ? `${error.stack ?? error.message} ${JSON.stringify(error)}` : String(error)
    console.log(`FAIL ${name} (${seconds(start)} s): ${text.replaceAll('\n', ' | ')}`)
  }
}

/** Ends the program with the results of `test`. */
export function finish(): never {
  process.exit(failed === 0 ? 0 : 1)
}

export function seconds(start: number): string {
  return ((performance.now() - start) / 1000).toFixed(2)
}

export function expectEqual(actual: unknown, expected: unknown, what: string): void {
  if (isDeepStrictEqual(actual, expected)) return
  throw new Error(`${what}: got ${JSON.stringify(actual)}, expected ${JSON.stringify(expected)}`)
}

export function expect(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what)
}

/** Part of an error that is checked. */
export interface Failure {
  readonly message: string
  readonly code?: unknown
  readonly status?: unknown
  readonly field?: unknown
  readonly region?: unknown
}

/** Returns the error that `promise` rejects with, and after how many milliseconds. */
export async function failureOf(promise: Promise<unknown>): Promise<{ error: Failure; milliseconds: number }> {
  const start = performance.now()
  try {
    await promise
  } catch (error) {
    const { message, code, fields } = error as Error & { code?: unknown; fields?: object }
    return { error: { ...(error as object), ...fields, message, code }, milliseconds: performance.now() - start }
  }
  throw new Error('it did not fail')
}

/** Runs a command of the guest and returns its output. */
export function sh(command: string): string {
  return execFileSync('sh', ['-c', command], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
}
