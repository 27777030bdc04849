import type { ChildProcess } from 'node:child_process'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import { constants, setPriority } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { type Spawned, spawnSource } from '@ckpt/testing'

const TOKEN = 'a token of this test alone'
/** Number of files that the server may open: as on a busy machine. */
const FILES = 1200
/** Connections of a flood, and some for the runner itself. */
const NEEDED = 2300
const CALLS = 15
/** Every call is answered within this time if the machine's processors have time for the server. */
const WITHIN_MS = 1000
/**
 * Additional time that a call may take: the time that the server and this process waited for a processor meanwhile, and this
 * multiple of the slowest call to a second server that gets no strangers. On a quiet machine both are a few milliseconds.
 */
const TIMES_ALONE = 5
/** A call that takes longer counts as not answered. */
const HANGS_MS = 60_000

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

describe('while 2,000 connections without a right to call are held open', { timeout: 240_000 }, () => {
  let server: Spawned
  /** A second server without strangers: its calls show what the machine itself costs. */
  let alone: Spawned
  let at: { readonly server: Listening; readonly alone: Listening }
  beforeAll(async () => {
    if (cannot !== undefined) return
    const start = (name: string) => spawnServer(name, ['prlimit', `--nofile=${FILES}:${FILES}`])
    ;[server, alone] = [start('server'), start('alone')]
    const [first, second] = await Promise.all([message<Listening>(server.child), message<Listening>(alone.child)])
    at = { server: first, alone: second }
  }, 60_000)
  afterAll(async () => {
    for (const one of [server, alone] as (Spawned | undefined)[]) await one?.stop('SIGKILL')
  })

  for (const [kind, port] of [
    ['idle', 'api'],
    ['half headers', 'api'],
    ['headers that grow', 'api'],
    ['dripped body', 'api'],
    ['drip after 401', 'api'],
    ['chunked body', 'api'],
    ['event streams without a token', 'api'],
    ['event streams with a token', 'api'],
    ['pipelined', 'api'],
    ['open paths', 'api'],
    ['answers that nobody reads', 'api'],
    ['resets', 'api'],
    ['idle', 'metrics'],
    ['half headers', 'metrics'],
    ['dripped body', 'metrics'],
    ['scrapes', 'metrics'],
  ] as const) {
    it(`${port === 'api' ? 'an authorised call' : 'a scrape of the metrics port'} is answered beside: ${kind}`, async ({
      skip,
    }) => {
      if (cannot !== undefined) skip(cannot)
      const path = port === 'api' ? '/v1/readyz' : '/metrics'
      const call = async (): Promise<Times> => {
        const waited = waitedForProcessor(server.child.pid, process.pid)
        const [attacked, left] = [timed(at.server[port] + path), timed(at.alone[port] + path)]
        return { attacked: await attacked, waited: waited(), alone: await left }
      }
      for (let i = 0; i < 3; i++) await call()
      const before = await ask<Resources>(server)

      const flood = spawnSource('flood', new URL('./strangers/http-flood.child.ts', import.meta.url), [
        new URL(at.server[port]).port,
        kind,
        TOKEN,
      ])
      onTestFinished(() => flood.stop('SIGKILL'))
      // Real strangers have their own processors; here they share the server's and must not take time from it.
      setPriority(flood.child.pid!, constants.priority.PRIORITY_BELOW_NORMAL)
      const times: Times[] = []
      const ready = message(flood.child).then(() => true)
      // While they arrive, and while they stay.
      while (!(await Promise.race([ready, sleep(50, false)]))) times.push(await call())
      for (let i = 0; i < CALLS; i++) {
        times.push(await call())
        await sleep(100)
      }
      const report = await ask<{ made: number; ended: number; held: number }>(flood)
      const during = await ask<Resources>(server)
      await flood.stop('SIGKILL')
      expect(report.made).toBeGreaterThanOrEqual(1000)
      expect(during.files).toBeLessThan(FILES)
      await expect
        .poll(async () => (await ask<Resources>(server)).files, { timeout: 30_000, interval: 100 })
        .toBeLessThanOrEqual(before.files + 3)
      const after = await ask<Resources>(server)
      const grown = Math.round((after.residentBytes - before.residentBytes) / 2 ** 20)
      console.log(
        `${kind}, ${port}: ${shown(times.map((one) => one.attacked))}, without the wait for a processor ${shown(times.map((one) => Math.max(0, one.attacked - one.waited)))}; a server left alone ${shown(times.map((one) => one.alone))}; beside ${JSON.stringify(report)}; ${during.files} files during, ${after.files} after, ${grown} MiB more`,
      )
      expect(grown).toBeLessThan(160)
      const alone = TIMES_ALONE * Math.max(...times.map((one) => one.alone))
      expect(times.filter(({ attacked, waited }) => attacked > WITHIN_MS + waited + alone)).toEqual([])
    })
  }
})

/** Milliseconds. */
interface Times {
  readonly attacked: number
  /** Time during which the server and this process were ready but did not run while the call lasted. */
  readonly waited: number
  readonly alone: number
}
interface Listening {
  readonly api: string
  readonly metrics: string
}

function spawnServer(name: string, through: readonly string[]): Spawned {
  return spawnSource(name, new URL('./strangers/http-server.child.ts', import.meta.url), [TOKEN], { through })
}

async function ask<T>({ child }: Spawned): Promise<T> {
  const answer = message<T>(child)
  child.send('report')
  return answer
}

/** Total time in milliseconds that processes have waited for a processor; 0 if the system does not report it. */
function waitedForProcessor(...processes: readonly (number | undefined)[]): () => number {
  const waited = () =>
    processes.reduce((sum: number, pid) => {
      try {
        return sum + Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[1]) / 1e6
      } catch {
        return sum
      }
    }, 0)
  const before = waited()
  return () => Math.round(waited() - before)
}

/** Median, 99 % and maximum of times in milliseconds. */
function shown(times: readonly number[]): string {
  const sorted = [...times].sort((a, b) => a - b)
  const part = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]
  return `${times.length} calls, p50 ${part(0.5)} ms, p99 ${part(0.99)} ms, longest ${sorted.at(-1)} ms`
}

/** Duration in milliseconds of one call over a new connection; fails if it is not answered with 200. */
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
    const ended = (code: number | null) => reject(new Error(`the process ended with ${code}`))
    child.once('exit', ended).once('message', (received) => {
      child.off('exit', ended)
      resolve(received as T)
    })
  })
}
