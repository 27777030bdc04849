/** @typedef {{ passed: number, failed: number, skipped: { name: string, reason?: string }[], failures: string[] }} Results */

/** @returns {Results} */
export function noResults() {
  return { passed: 0, failed: 0, skipped: [], failures: [] }
}

/** Adds the results of one runner to the total. */
export function addResults(total, results) {
  total.passed += results.passed
  total.failed += results.failed
  total.skipped.push(...results.skipped)
  total.failures.push(...(results.failures ?? []))
}

/** The line that every run ends with. */
export function countLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed, ${skipped.length} skipped`
}

/** Reads lines such as `PASS what`, `FAIL what` and `SKIP what: reason`. */
export function parseLines(output) {
  const results = noResults()
  for (const [, state, what] of output.matchAll(/^(PASS|FAIL|SKIP) (.*)$/gm)) {
    if (state === 'PASS') results.passed += 1
    else if (state === 'FAIL') {
      results.failed += 1
      results.failures.push(what)
    } else {
      const [name, ...reason] = what.split(': ')
      results.skipped.push({ name, reason: reason.length > 0 ? reason.join(': ') : undefined })
    }
  }
  return results
}

/**
 * Reads pytest's own summaries, one a run: a line has the counts, `-rs` lines the reasons.
 * @returns {Results | undefined} undefined where the text holds no summary of pytest
 */
export function parsePytest(output) {
  // eslint-disable-next-line no-control-regex -- pytest colours its output
  const text = output.replace(/\x1b\[[0-9;]*m/g, '')
  const lines = text.split('\n').filter((line) => / in [\d.]+s/.test(line) && /\d+ (passed|failed|skipped|errors?)/.test(line))
  if (lines.length === 0) return undefined
  const count = (word) => lines.reduce((sum, line) => sum + Number(new RegExp(`(\\d+) ${word}`).exec(line)?.[1] ?? 0), 0)
  const skipped = [...text.matchAll(/^SKIPPED \[(\d+)\] (.*?): (.*)$/gm)].flatMap(([, times, name, reason]) =>
    Array.from({ length: Number(times) }, () => ({ name, reason })),
  )
  while (skipped.length < count('skipped')) skipped.push({ name: 'a Python test', reason: undefined })
  const failures = [...text.matchAll(/^(?:FAILED|ERROR) (\S+)/gm)].map(([, name]) => name)
  return { passed: count('passed') + count('xfailed'), failed: count('failed') + count('errors?'), skipped, failures }
}
