#!/usr/bin/env node
// Adds up results files: node scripts/sum-results.mjs NAME:EXIT_CODE:FILE…; prints one line and fails if anything failed.
import { existsSync, readFileSync } from 'node:fs'
import { addResults, countLine, noResults } from './lib/results.mjs'

const total = noResults()
for (const argument of process.argv.slice(2)) {
  const [, name, code, file] = /^([^:]*):(\d+):(.*)$/.exec(argument)
  const results = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined
  if (results !== undefined) addResults(total, results)
  // An exit code that its results do not explain must not get lost.
  if (results === undefined || (code !== '0' && results.failed === 0)) {
    addResults(total, { ...noResults(), failed: 1, failures: [`${name}: ended with exit code ${code}`] })
  }
}
if (total.failures.length > 0) process.stdout.write(`Failed:\n${total.failures.map((what) => `  - ${what}\n`).join('')}`)
process.stdout.write(`${countLine(total)}\n`)
process.exitCode = total.failed > 0 ? 1 : 0
