import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import type { BenchResult } from '../result.ts'
import { renderHtml } from './html.ts'
import { renderJson } from './json.ts'

/** Where report and JSON go unless told otherwise, in the user's directory; git ignores it. */
export const DIRECTORY = 'ckpt-bench'

/** The files that every run of the bench leaves. */
export interface OutputFiles {
  readonly report: string
  readonly json: string
}

/**
 * Absolute paths of the files, with their directories made: a path that cannot be written to is to be known before anything is measured.
 *
 * @param from The user's directory.
 * @param given Paths that the user named.
 */
export function outputFiles(from: string, given: Partial<OutputFiles>): OutputFiles {
  const files = {
    report: resolve(from, given.report ?? join(DIRECTORY, 'report.html')),
    json: resolve(from, given.json ?? join(DIRECTORY, 'bench.json')),
  }
  for (const path of Object.values(files)) mkdirSync(dirname(path), { recursive: true })
  return files
}

/** Writes both; returns what to tell the user about them. */
export function writeFiles({ report, json }: OutputFiles, result: BenchResult): string {
  writeFileSync(report, renderHtml(result))
  writeFileSync(json, renderJson(result))
  return `report: ${report}\nJSON: ${json}\n`
}
