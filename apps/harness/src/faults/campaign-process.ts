import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { SOURCE_FLAGS } from '@ckpt/testing'

/** Results of a campaign, as `--json` writes them. */
export interface Report {
  readonly results: readonly { readonly fault: string; readonly point: string; readonly breaks: readonly string[] }[]
  readonly missing: readonly { readonly fault: string; readonly reason: string }[]
}

/** Runs a campaign in a process of its own, which has a sandbox. */
export function campaign(...args: string[]): Promise<Report> {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-campaign-'))
  const json = join(directory, 'report.json')
  const main = fileURLToPath(new URL('./main.ts', import.meta.url))
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [...SOURCE_FLAGS, main, ...args, '--json', json], { maxBuffer: 2 ** 26 }, (error, output) => {
      try {
        console.log(output)
        resolve(JSON.parse(readFileSync(json, 'utf8')) as Report)
      } catch {
        reject(error ?? new Error(output))
      } finally {
        rmSync(directory, { recursive: true, force: true })
      }
    })
  })
}
