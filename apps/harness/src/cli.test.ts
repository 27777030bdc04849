import { spawn, type ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { TraceEvent } from '@ckpt/core'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { EngineProcess, freePort, generateCheckpoint, type GeneratedCheckpoint, nodeArguments, leftovers } from '@ckpt/testing'

const MAIN = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url))
const RANKS = 2

interface Finished {
  readonly status: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** Processes that were started with `mark` in their environment. */
function processesWith(mark: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/environ`, 'utf8').includes(mark)
    } catch {
      return false
    }
  })
}

/** Returns true if the process that `path` is named after is alive and was not started with `mark` in its environment. */
function isOfOthers(path: string, mark: string): boolean {
  const pid = /ckpt-(?:[a-z]+-)?(\d+)-/.exec(path)?.[1]
  try {
    return !readFileSync(`/proc/${pid}/environ`, 'utf8').includes(mark)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EACCES'
  }
}

function ckpt(args: readonly string[], env: NodeJS.ProcessEnv = {}): { child: ChildProcess; finished: Promise<Finished> } {
  const child = spawn(process.execPath, [...nodeArguments(MAIN), ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const finished = once(child, 'close').then(([status, signal]) => ({ status, signal, stdout, stderr }))
  return { child, finished }
}

describe('ckpt update', () => {
  let checkpoint: GeneratedCheckpoint
  let directory: string
  let engines: EngineProcess[]
  beforeAll(async () => {
    checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 64 * 2 ** 20, 11n)
    directory = mkdtempSync(join(tmpdir(), 'ckpt-cli-test-'))
    engines = Array.from(
      { length: RANKS },
      (_, tpRank) =>
        new EngineProcess({ kind: 'typescript', directory, checkpoint: checkpoint.directory, tpRank, tpSize: RANKS }),
    )
    await Promise.all(engines.map((engine) => engine.ready()))
  })
  afterAll(async () => {
    await Promise.all(engines.map(({ process }) => process.stop()))
    rmSync(directory, { recursive: true, force: true })
    checkpoint[Symbol.dispose]()
  })

  const update = (...more: string[]) => [
    'update',
    '--checkpoint',
    checkpoint.directory,
    '--engine-control',
    join(directory, 'engine-typescript-{rank}.sock'),
    '--nproc',
    String(RANKS),
    ...more,
  ]

  /** Command line of `ckpt launch` for what follows. */
  const launched = (port: number) => [
    ...['launch', '--nproc', String(RANKS), '--master-port', String(port), '--', process.execPath],
    ...nodeArguments(MAIN),
  ]

  it('then `ckpt join` gives another instance the weights, which can hand them on', { timeout: 180_000 }, async () => {
    const other = mkdtempSync(join(tmpdir(), 'ckpt-cli-join-'))
    const [metas, kept] = [join(other, 'metas.json'), join(other, 'kept.json')]
    const token = 'the token of the running ranks'
    const port = await freePort()
    const joiners = Array.from(
      { length: RANKS },
      (_, tpRank) =>
        new EngineProcess({ kind: 'typescript', directory: other, checkpoint: checkpoint.directory, tpRank, tpSize: RANKS }),
    )
    const started = [
      ckpt([...launched(port), ...update('--save-metas', metas, '--publish-metas', '--hold')], { CKPT_TOKEN: token }),
    ]
    const [holding] = started
    const written = async (path: string, by: ChildProcess) => {
      const deadline = performance.now() + 60_000
      while (!existsSync(path) && by.exitCode === null && performance.now() < deadline) await sleep(100)
    }
    const args = ['--engine-control', join(other, 'engine-typescript-{rank}.sock'), '--nproc', String(RANKS), '--json']
    const joinFrom = async (from: readonly string[], env: NodeJS.ProcessEnv = {}) => {
      await Promise.all(joiners.map((engine) => engine.poison()))
      const joined = await ckpt(['join', ...from, ...args], env).finished
      expect(joined.status, joined.stderr).toBe(0)
      const reports = joined.stdout.trim().split('\n')
      expect(reports).toHaveLength(RANKS)
      for (const report of reports) expect(JSON.parse(report)).toMatchObject({ strategy: 'p2p', bytes: checkpoint.bytes })
      for (const engine of joiners) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
    }
    try {
      await Promise.all(joiners.map((engine) => engine.ready()))
      await written(metas, holding!.child)
      await joinFrom(['--coordinator', `tcp://127.0.0.1:${port}`], { CKPT_JOIN_TOKEN: token })
      const keeping = ckpt(['join', '--metas', metas, '--keep', '--save-metas', kept, '--hold', ...args])
      started.push(keeping)
      await written(kept, keeping.child)
      // Only from the second one: the first is gone.
      holding!.child.kill('SIGINT')
      expect(await holding!.finished).toMatchObject({ status: 130 })
      await joinFrom(['--metas', kept])
    } finally {
      for (const { child } of started) child.kill('SIGINT')
      await Promise.all(started.map(({ finished }) => finished))
      await Promise.all(joiners.map(({ process }) => process.stop()))
      rmSync(other, { recursive: true, force: true })
    }
    const { status, stderr } = await ckpt(['join', '--metas', metas, '--hold', ...args]).finished
    expect({ status, stderr }).toMatchObject({ status: 2, stderr: expect.stringContaining('requires --keep') })
  })

  it('updates every worker and says what it did', async () => {
    const { status, stdout, stderr } = await ckpt(update('--version', 'step-1')).finished
    expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' })
    expect(stdout).toContain('version step-1')
    expect(stdout).toMatch(/how: (direct|staged, and recorded)/)
    expect(stdout).toContain('verified: bytes')
    for (const engine of engines) {
      expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
      expect(await engine.health()).toMatchObject({ version: 'step-1', dirty: false })
    }
  })

  it('is told from what the workers say of themselves by ckpt status', async () => {
    const status = (...more: string[]) =>
      ckpt(['status', '--engine-control', join(directory, 'engine-typescript-{rank}.sock'), '--nproc', String(RANKS), ...more])
        .finished
    expect(await status()).toMatchObject({ status: 0, stdout: expect.stringContaining('rank 1  ok     version step-1') })
    await engines[1]!.poison()
    const dirty = await status('--json')
    expect(dirty.status).toBe(1)
    expect(JSON.parse(dirty.stdout)).toEqual({
      schema: 1,
      workers: [
        { rank: 0, version: 'step-1', dirty: false },
        { rank: 1, version: 'step-1', dirty: true },
      ],
    })
  })

  it('prints one JSON line a rank with --json', async () => {
    const { status, stdout } = await ckpt(update('--json', '--no-verify')).finished
    expect(status).toBe(0)
    const lines = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { rank: number; verified: string })
    expect(lines.map(({ rank }) => rank).sort()).toEqual([0, 1])
    expect(lines.every(({ verified }) => verified === 'none')).toBe(true)
  })

  it('writes one trace of all ranks with --trace', async () => {
    const path = join(directory, 'trace.json')
    const { status, stderr } = await ckpt(update('--trace', path, '--strategy', 'broadcast')).finished
    expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' })
    const { traceEvents } = JSON.parse(readFileSync(path, 'utf8')) as { traceEvents: TraceEvent[] }
    for (const pid of [0, 1]) {
      const tracks = traceEvents.filter((event) => event.pid === pid && event.ph === 'X').map(({ tid }) => tid)
      expect(new Set(tracks)).toEqual(new Set([0, 1, 2, 3]))
    }
  })

  it('names the file that is malformed, and fails', async () => {
    const { status, stderr } = await ckpt([
      'update',
      '--checkpoint',
      MAIN,
      '--engine-control',
      join(directory, 'engine-typescript-{rank}.sock'),
    ]).finished
    expect(status).toBe(1)
    expect(stderr).toContain('CHECKPOINT_MALFORMED')
    expect(stderr).toContain('main.ts')
  })

  it('names the variable that is broken', async () => {
    const { status, stderr } = await ckpt(
      update().filter((word) => word !== '--nproc' && word !== String(RANKS)),
      { RANK: 'two' },
    ).finished
    expect(status).toBe(1)
    expect(stderr).toContain('RANK')
  })

  it.each([
    ['whose output is cut by head', '"$@" --json | head -1', 0],
    [
      'whose terminal is closed',
      '"$@" --hold > "$DONE" & pid=$!; until [ -s "$DONE" ]; do sleep 0.1; done; kill -HUP $pid; wait $pid',
      129,
    ],
  ])('%s leaves no process and no file', { timeout: 60_000 }, async (_, script, expected) => {
    const before = new Set(leftovers())
    const mark = randomUUID()
    const line = [process.execPath, ...nodeArguments(MAIN), ...update()]
    const env = { ...process.env, HARNESS_MARK: mark, DONE: join(directory, mark) }
    const child = spawn('sh', ['-c', script, 'sh', ...line], { env, stdio: ['ignore', 'pipe', 'inherit'] })
    const [status] = (await once(child, 'close')) as [number]
    expect(status).toBe(expected)
    const files = () => leftovers().filter((path) => !before.has(path) && !isOfOthers(path, mark))
    expect(await staying(files)).toEqual([])
    expect(await staying(() => processesWith(mark))).toEqual([])
  })

  it('leaves nothing behind when it is interrupted at any moment', { timeout: 240_000 }, async () => {
    const before = new Set(leftovers())
    // Ignores what other processes create on this machine meanwhile.
    const mark = { HARNESS_MARK: randomUUID() }
    const started = performance.now()
    await ckpt(update(), mark).finished
    const whole = performance.now() - started
    const moments = 12
    for (let i = 0; i < moments; i++) {
      const { child, finished } = ckpt(update(), mark)
      const timer = setTimeout(() => child.kill('SIGINT'), (whole * (i + 0.5)) / moments)
      const { status, signal } = await finished
      clearTimeout(timer)
      // Interrupted (by Node itself in its first moments), or finished before the signal arrived.
      expect([0, 130, 'SIGINT']).toContain(signal ?? status)
      const found = () => leftovers().filter((path) => !before.has(path) && !isOfOthers(path, mark.HARNESS_MARK))
      expect(await staying(found), `after ${i + 1} of ${moments}`).toEqual([])
    }
    // Workers whose update was interrupted accept the next one.
    expect((await ckpt(update('--version', 'after')).finished).status).toBe(0)
    for (const engine of engines) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
  })
})

/** What remains for five seconds: files of other processes that have just ended cannot be attributed, but they disappear. */
async function staying(find: () => string[]): Promise<string[]> {
  let found = find()
  for (const end = performance.now() + 5000; found.length > 0 && performance.now() < end;) {
    await sleep(100)
    const now = new Set(find())
    found = found.filter((path) => now.has(path))
  }
  return found
}

describe('ckpt launch', () => {
  it('gives every rank its environment and passes on the first failure', async () => {
    const script =
      'const { RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, CKPT_TOKEN_FILE } = process.env; const { mode } = require("fs").statSync(CKPT_TOKEN_FILE); console.log([RANK, WORLD_SIZE, MASTER_ADDR, Number(MASTER_PORT) > 0, (mode & 0o777).toString(8)].join(" "))'
    const { status, stdout } = await ckpt(['launch', '--nproc', '3', '--', process.execPath, '-e', script]).finished
    expect(status).toBe(0)
    expect(stdout.trim().split('\n').sort()).toEqual([0, 1, 2].map((rank) => `${rank} 3 127.0.0.1 true 600`))

    const failing = 'if (process.env.RANK === "1") process.exit(7); setInterval(() => {}, 1000)'
    const failed = await ckpt(['launch', '--nproc', '2', '--', process.execPath, '-e', failing]).finished
    expect(failed.status).toBe(7)
    expect(failed.stderr).toContain('rank 1 exited with status 7')
  })
})
