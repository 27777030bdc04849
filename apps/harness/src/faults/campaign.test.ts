import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { SOURCE_FLAGS } from '@ckpt/testing'

interface Report {
  readonly results: readonly { readonly fault: string; readonly point: string; readonly breaks: readonly string[] }[]
  readonly missing: readonly { readonly fault: string; readonly reason: string }[]
}

function campaign(...args: string[]): Promise<Report> {
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

describe('a fault campaign', () => {
  it('breaks no invariant in a sample of 20 trials', { timeout: 240_000 }, async () => {
    // On a busy machine processes are delayed: the condition is the same, the time window is wider.
    const { results, missing } = await campaign('--trials', '20', '--seed', '7', '--window', '1500')
    for (const { fault, reason } of missing) console.log(`not run: ${fault}: ${reason}`)
    expect(results).toHaveLength(20)
    expect(results.filter(({ breaks }) => breaks.length > 0)).toEqual([])
  })
})
