import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { execFile } from 'node:child_process'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { expect, it, onTestFinished } from 'vitest'
import { freePorts, generateCheckpoint, SOURCE_FLAGS } from '@ckpt/testing'

const BENCH = fileURLToPath(new URL('../../bench/src/main.ts', import.meta.url))
const run = promisify(execFile)

interface Json {
  readonly runs: readonly {
    readonly bytes: number
    readonly ranks: number
    readonly updateMs: { readonly samples: readonly number[] }
    readonly ratios: { readonly samples: readonly number[] }
    readonly stages: Readonly<Record<'h2dMs' | 'broadcastMs' | 'reloadMs' | 'idleMs', number>>
  }[]
}

it('curl of the metrics during a bench shows the numbers that its report shows', { timeout: 180_000 }, async () => {
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-metrics-test-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  using checkpoint = await generateCheckpoint(createHost(), model('glm-4.5-air'), 64 * 2 ** 20, 5n)
  const port = await freePorts(2)
  const json = join(directory, 'bench.json')
  const flags = ['--checkpoint', checkpoint.directory, '--backend', 'host', '--repeat', '4', '--json', json]
  const bench = spawn(process.execPath, [...SOURCE_FLAGS, BENCH, ...flags, '--metrics-port', String(port)], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  let status: number | null | undefined
  const ended = once(bench, 'close').then(([code]) => (status = code as number | null))
  const scrapes: Map<string, number>[][] = []
  while (status === undefined) {
    const both = await Promise.all([curl(port), curl(port + 1)])
    if (both.every((one) => one !== undefined)) scrapes.push(both)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  await ended
  expect(status).toBe(0)

  const { runs } = JSON.parse(readFileSync(json, 'utf8')) as Json
  const { bytes, updateMs, ratios, stages } = runs[0]!
  const samples = updateMs.samples.map((milliseconds, i) => ({ seconds: milliseconds / 1000, ratio: ratios.samples[i]! }))
  // The slowest rank counts, in the report and here.
  const seen = scrapes.map((both) => ({
    seconds: Math.max(...both.map((one) => one.get('ckpt_last_update_seconds') ?? NaN)),
    ratio: Math.max(...both.map((one) => one.get('ckpt_update_ratio_to_limit') ?? NaN)),
    bytes: both.map((one) => one.get('ckpt_last_update_bytes')),
    limits: both.map((one) => one.get('ckpt_update_limit_seconds')),
  }))
  const matched = samples.filter(({ seconds, ratio }) =>
    seen.some(
      (one) =>
        close(one.seconds, seconds) &&
        close(one.ratio, ratio) &&
        one.bytes.every((given) => given === bytes) &&
        one.limits[0] === one.limits[1],
    ),
  )
  console.log(`${scrapes.length} scrapes saw ${matched.length} of ${samples.length} samples: ${JSON.stringify(matched)}`)
  expect(matched.length).toBeGreaterThanOrEqual(samples.length - 1)
  // The report's stages are those of one of the samples.
  const ofStage = (both: Map<string, number>[], stage: string) =>
    Math.max(...both.map((one) => one.get(`ckpt_last_update_stage_seconds{stage="${stage}"}`) ?? NaN))
  const shown = scrapes.filter((both) =>
    Object.entries(stages).every(([name, ms]) => close(ofStage(both, name.replace(/Ms$/, '')), ms / 1000)),
  )
  console.log(`${shown.length} scrapes saw the report's stages ${JSON.stringify(stages)}`)
  if (matched.length === samples.length) expect(shown.length).toBeGreaterThan(0)
  const last = scrapes.at(-1)![0]!
  expect(last.get('ckpt_updates_total{engine="control",strategy="broadcast",result="ok"}')).toBeGreaterThanOrEqual(
    samples.length,
  )
  expect(last.get('ckpt_dirty_engines{engine="control"}')).toBeGreaterThanOrEqual(0)
})

function close(a: number, b: number): boolean {
  return Math.abs(a - b) <= 1e-9 * Math.abs(b)
}

/** The numbers by name and labels except the rank's, as `curl` prints them; undefined if nothing listens. */
async function curl(port: number): Promise<Map<string, number> | undefined> {
  let text: string
  try {
    text = await fetched(port)
  } catch {
    return undefined
  }
  const numbers = new Map<string, number>()
  for (const [, name, labels = '', value] of text.matchAll(/^(\w+)(?:\{(.*)\})? (\S+)$/gm)) {
    const others = labels.split(',').filter((label) => label !== '' && !label.startsWith('rank='))
    numbers.set(others.length > 0 ? `${name}{${others.join(',')}}` : name!, Number(value))
  }
  return numbers
}

let withCurl: Promise<boolean> | undefined

/** With `curl` if it is installed. */
async function fetched(port: number): Promise<string> {
  const url = `http://127.0.0.1:${port}/metrics`
  withCurl ??= run('curl', ['--version']).then(
    () => true,
    () => false,
  )
  if (await withCurl) return (await run('curl', ['--silent', '--fail', '--max-time', '2', url])).stdout
  return (await fetch(url)).text()
}
