import { spawn } from 'node:child_process'
import { randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { expect, it, onTestFinished } from 'vitest'
import { EngineProcess, generateCheckpoint, nodeArguments, type Spawned, wrap } from '@ckpt/testing'
import { attemptAs, noOtherUser } from './strangers/local.ts'

const MAIN = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url))
const RANKS = 2
const NOBODY = 65_534

/** What the system shows about a process: its arguments to everyone, its environment to its own user. */
interface Shown {
  readonly pid: number
  readonly arguments: string
  readonly environment: string
}

/** Every process of the machine that can be inspected. */
function processes(): Shown[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const read = (file: string) => readFileSync(join('/proc', pid, file), 'latin1')
        return [{ pid: Number(pid), arguments: read('cmdline'), environment: read('environ') }]
      } catch {
        return [] // it has ended, or is another user's
      }
    })
}

it('secrets are in no process’s arguments, nor in the environment of ranks, engines and servers that ckpt was not given one in', async ({
  skip,
}) => {
  const mark = randomUUID()
  const directory = mkdtempSync(join(tmpdir(), 'ckpt-secrets-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 8 * 2 ** 20, 3n)
  const httpToken = randomBytes(24).toString('base64url')
  const tokenFile = join(directory, 'http-token')
  writeFileSync(tokenFile, httpToken, { mode: 0o600 })

  process.env['CKPT_TEST_MARK'] = mark
  onTestFinished(() => {
    delete process.env['CKPT_TEST_MARK']
  })
  const started: Spawned[] = []
  onTestFinished(async () => {
    await Promise.all(started.map((one) => one.stop('SIGINT')))
  })
  const ckpt = (what: string, args: readonly string[]) => {
    const child = spawn(process.execPath, [...nodeArguments(MAIN), ...args], { stdio: ['ignore', 'ignore', 'pipe'] })
    started.push(wrap(what, child))
    return started.at(-1)!
  }
  // Inspected from before the first process starts, so that short-lived ones are seen too.
  const seen = new Map<number, Shown>()
  const look = () => {
    for (const one of processes()) if (one.environment.includes(mark)) seen.set(one.pid, one)
  }
  const looking = setInterval(look, 20)
  onTestFinished(() => clearInterval(looking))

  const engines = Array.from(
    { length: RANKS },
    (_, tpRank) =>
      new EngineProcess({ kind: 'typescript', directory, checkpoint: checkpoint.directory, tpRank, tpSize: RANKS }),
  )
  started.push(...engines.map(({ process: spawned }) => spawned))
  await Promise.all(engines.map((engine) => engine.ready()))
  const metas = join(directory, 'metas.json')
  const socket = join(directory, 'api.sock')
  const holding = ckpt('update', [
    ...['update', '--checkpoint', checkpoint.directory, '--nproc', String(RANKS)],
    ...['--engine-control', join(directory, 'engine-typescript-{rank}.sock')],
    ...['--save-metas', metas, '--hold'],
  ])
  const serving = ckpt('serve', ['serve', '--uds', socket, '--token-file', tokenFile])
  const there = () => existsSync(metas) && existsSync(socket)
  await expect.poll(there, { timeout: 60_000, message: holding.stderr() + serving.stderr() }).toBe(true)
  look()

  // The launcher, its ranks, the engines and the server at least.
  expect(seen.size).toBeGreaterThanOrEqual(2 * RANKS + 2)
  const paths = new Set(
    [...seen.values()].flatMap(({ environment }) => /(?<=\0CKPT_TOKEN_FILE=)[^\0]+/.exec(environment) ?? []),
  )
  const [runTokenFile] = paths
  expect([...paths]).toEqual([expect.stringMatching(/token$/)])
  expect(statSync(runTokenFile!).mode & 0o777).toBe(0o600)
  const endpoints = [...readFileSync(metas, 'utf8').matchAll(/"(?:value|key)":"([^"]+)"/g)].map(([, secret]) => secret!)
  expect(endpoints.length).toBeGreaterThanOrEqual(2 * RANKS)
  const secrets = [httpToken, readFileSync(runTokenFile!, 'utf8').trim(), ...endpoints]

  // A process that leaks the secret is found, in both places.
  const [shown] = secrets
  const wrong = spawn('sleep', ['60'], { argv0: `sleep --token=${shown}`, env: { CKPT_TEST_MARK: mark, TOKEN: shown! } })
  onTestFinished(() => void wrong.kill('SIGKILL'))
  await once(wrong, 'spawn')
  await expect.poll(() => processes().find(({ pid }) => pid === wrong.pid)?.arguments).toContain(shown)

  const holders = (field: 'arguments' | 'environment', of: Iterable<Shown>) =>
    [...of].filter((one) => secrets.some((secret) => one[field].includes(secret))).map(({ pid }) => pid)
  expect(holders('arguments', [...seen.values(), ...processes()])).toEqual([wrong.pid])
  look()
  expect(holders('environment', seen.values())).toEqual([wrong.pid])

  // Environments are only visible to their own user: ckpt does not change the system's settings for processes, including core
  // dumps.
  const limit = (pid: number | 'self') => /^Max core file size.*$/m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8'))![0]
  const alive = started.map(({ child }) => child.pid!)
  for (const pid of alive) {
    expect(limit(pid)).toBe(limit('self'))
    expect(statSync(`/proc/${pid}/environ`)).toMatchObject({ uid: process.getuid!(), mode: 0o100400 })
  }
  const cannot = noOtherUser()
  if (cannot !== undefined) skip(`no other user: ${cannot}`)
  const environments = alive.map((pid) => `/proc/${pid}/environ`)
  const others = await attemptAs(NOBODY, { read: environments, write: [], list: [], connect: [] })
  expect(new Set(Object.values(others))).toEqual(new Set(['EACCES']))
})
