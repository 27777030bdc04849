import type { ChildProcess } from 'node:child_process'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import { spawnSource, type Spawned } from './cluster/processes.ts'

const TOKEN = 'a token of this test alone'
/** Files that the server may open: as many as a busy machine leaves it. */
const FILES = 1200
/** Connections of a flood, and some for the runner itself. */
const NEEDED = 2300
const CALLS = 15
/** A call that takes longer is not answered at all. */
const HANGS_MS = 15_000

const filesHere = Number(/^Max open files\s+\d+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? Infinity)
const cannot =
  filesHere < NEEDED
    ? `the limit of open files is ${filesHere}, a flood needs ${NEEDED} (ulimit -n)`
    : spawnSync('prlimit', ['--version']).status === 0
      ? undefined
      : 'there is no prlimit to give the server few files'

interface Resources {
  readonly files: number
  readonly residentBytes: number
}

describe('while 2,000 connections without a right to call are held open', { timeout: 120_000 }, () => {
  const ended: (() => Promise<unknown>)[] = []
  afterEach(async () => {
    for (const end of ended.splice(0).reverse()) await end()
  })
  const start = (name: string, module: string, args: readonly string[], through?: readonly string[]): Spawned => {
    const spawned = spawnSource(name, new URL(`./strangers/${module}`, import.meta.url), args, { ...(through && { through }) })
    ended.push(() => spawned.stop('SIGKILL'))
    return spawned
  }
  const ask = async <T>({ child }: Spawned): Promise<T> => {
    const answer = message<T>(child)
    child.send('report')
    return answer
  }

  for (const [kind, at] of [
    ['idle', 'api'],
    ['half headers', 'api'],
    ['dripped body', 'api'],
    ['drip after 401', 'api'],
    ['chunked body', 'api'],
    ['event streams without a token', 'api'],
    ['event streams with a token', 'api'],
    ['pipelined', 'api'],
    ['answers that nobody reads', 'api'],
    ['idle', 'metrics'],
    ['half headers', 'metrics'],
    ['dripped body', 'metrics'],
  ] as const) {
    it(`${at === 'api' ? 'an authorised call' : 'a scrape of the metrics port'} is answered beside: ${kind}`, async ({
      skip,
    }) => {
      if (cannot !== undefined) skip(cannot)
      const server = start('server', 'http-server.child.ts', [TOKEN], ['prlimit', `--nofile=${FILES}:${FILES}`])
      const listening = await message<{ api: string; metrics: string }>(server.child)
      const call = () => timed(at === 'api' ? `${listening.api}/v1/readyz` : `${listening.metrics}/metrics`)
      for (let i = 0; i < 3; i++) await call()
      const before = await ask<Resources>(server)

      const flood = start('flood', 'http-flood.child.ts', [new URL(listening[at]).port, kind, TOKEN])
      const times: number[] = []
      const ready = message(flood.child).then(() => true)
      // While they come, and while they stay.
      while (!(await Promise.race([ready, sleep(100, false)]))) times.push(await call())
      for (let i = 0; i < CALLS; i++) {
        times.push(await call())
        await sleep(200)
      }
      const report = await ask<{ made: number; ended: number; held: number }>(flood)
      const during = await ask<Resources>(server)
      await flood.stop('SIGKILL')
      expect(report.made).toBeGreaterThanOrEqual(1000)
      expect(during.files).toBeLessThan(FILES)
      await expect
        .poll(async () => (await ask<Resources>(server)).files, { timeout: 30_000, interval: 500 })
        .toBeLessThanOrEqual(before.files + 3)
      const after = await ask<Resources>(server)
      const grown = Math.round((after.residentBytes - before.residentBytes) / 2 ** 20)
      console.log(
        `${kind}, ${at}: ${times.length} calls, at most ${Math.max(...times)} ms, beside ${JSON.stringify(report)}; ${during.files} files during, ${after.files} after, ${grown} MiB more`,
      )
      expect(grown).toBeLessThan(160)
    })
  }
})

/** Milliseconds that one call over a connection of its own takes; fails where it is not answered with 200. */
function timed(url: string): Promise<number> {
  const started = performance.now()
  return new Promise((resolve, reject) => {
    const outgoing = request(
      url,
      { agent: false, headers: { authorization: `Bearer ${TOKEN}` }, timeout: HANGS_MS },
      (answer) => {
        answer.resume()
        answer.on('error', reject)
        answer.on('end', () => {
          if (answer.statusCode === 200) resolve(Math.round(performance.now() - started))
          else reject(new Error(`${url} answered ${answer.statusCode}`))
        })
      },
    )
    outgoing.on('timeout', () => outgoing.destroy(new Error(`${url} did not answer within ${HANGS_MS} ms`)))
    outgoing.on('error', reject)
    outgoing.end()
  })
}

function message<T>(child: ChildProcess): Promise<T> {
  return new Promise((resolve, reject) => {
    child.once('message', (received) => resolve(received as T))
    child.once('exit', (code) => reject(new Error(`the process ended with ${code}`)))
  })
}
