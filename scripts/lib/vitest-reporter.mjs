import { writeFileSync } from 'node:fs'
import { relative } from 'node:path'
import { ROOT } from './root.mjs'

/** Writes what vitest found as JSON to $CKPT_RESULTS: counts, and each skipped test with the reason its author gave. */
export default class ResultsReporter {
  onTestRunEnd(modules, unhandledErrors) {
    const results = { passed: 0, failed: 0, skipped: [], failures: [] }
    const fail = (what) => {
      results.failed += 1
      results.failures.push(what)
    }
    for (const module of modules) {
      const file = relative(ROOT, module.moduleId)
      for (const error of module.errors()) fail(`${file}: ${error.message}`)
      for (const test of module.children.allTests()) {
        const { state, note } = test.result()
        if (state === 'passed') results.passed += 1
        else if (state === 'skipped')
          results.skipped.push({ name: `${file} > ${test.fullName}`, reason: note ?? named(test.fullName) })
        else fail(`${file} > ${test.fullName}`)
      }
    }
    for (const error of unhandledErrors) fail(`unhandled: ${error.message}`)
    writeFileSync(process.env.CKPT_RESULTS, JSON.stringify(results))
  }
}

/** The reason in a name such as `copies [skipped: no GPU]`. */
function named(name) {
  return /\[skipped: (.*?)\]/.exec(name)?.[1]
}
