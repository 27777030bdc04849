import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import type { BenchResult } from '../result.ts'
import { renderHtml } from './html.ts'
import { renderJson } from './json.ts'

/** Default directory of report and JSON, in the user's directory; git ignores it. */
export const DIRECTORY = 'ckpt-bench'

/** Files that every run of the bench writes. */
export interface OutputFiles {
  readonly report: string
  readonly json: string
}

/**
 * Returns absolute paths of the files and creates their directories, so that an unwritable path fails before anything is
 * measured.
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

/** Writes both; returns a message for the user about them. */
export function writeFiles({ report, json }: OutputFiles, result: BenchResult): string {
  writeFileSync(report, renderHtml(result))
  writeFileSync(json, renderJson(result))
  return `report: ${report}\nJSON: ${json}\n`
}
