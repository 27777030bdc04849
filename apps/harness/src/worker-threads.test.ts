import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { EngineProcess, generateCheckpoint, type GeneratedCheckpoint, SOURCE_FLAGS } from '@ckpt/testing'

const MAIN = fileURLToPath(new URL('worker-threads.fixture.ts', import.meta.url))

describe('a parameter server in a worker thread', { timeout: 120_000 }, () => {
  let checkpoint: GeneratedCheckpoint
  let base: string
  let runtime: string
  let engine: EngineProcess
  beforeAll(async () => {
    checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 8 * 2 ** 20, 11n)
    base = mkdtempSync(join(tmpdir(), 'ckpt-thread-test-'))
    runtime = join(base, 'runtime')
    mkdirSync(runtime)
    engine = new EngineProcess({ kind: 'typescript', directory: base, checkpoint: checkpoint.directory, tpRank: 0, tpSize: 1 })
    await engine.ready()
  }, 120_000)
  afterAll(async () => {
    await engine.process.stop()
    rmSync(base, { recursive: true, force: true })
    checkpoint[Symbol.dispose]()
  })

  /** The thread's messages, and what the process leaves behind. */
  const run = async (what: string) => {
    const child = spawn(process.execPath, [...SOURCE_FLAGS, MAIN, what, checkpoint.directory, engine.socket, base], {
      env: { ...process.env, XDG_RUNTIME_DIR: runtime },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let said = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
    const [status] = (await once(child, 'close')) as [number | null]
    const left = [
      ...readdirSync('/dev/shm').filter((name) => name.startsWith(`ckpt-${child.pid}-`)),
      ...readdirSync(runtime),
      ...readdirSync(base).filter((name) => name.startsWith('api') || name.startsWith('.')),
    ]
    return { status, said: said.trim().split('\n'), left }
  }

  it('updates, serves its numbers, and answers on a unix socket that is its user’s alone', async () => {
    expect(await run('work')).toEqual({
      status: 0,
      said: ['metrics 200', 'socket 600', 'healthz 200', 'updated threads', 'exit 0'],
      left: [],
    })
  })

  it.each(['idle', 'register', 'gather'])('leaves nothing when it is terminated while it is at: %s', async (what) => {
    const { status, said, left } = await run(what)
    expect({ status, said: said.filter((line) => !line.includes('ZeroMQ')), left }).toEqual({
      status: 0,
      said: ['started', 'terminated'],
      left: [],
    })
  })

  it('can be terminated in the middle of updates once it was closed', async () => {
    expect(await run('close-then-terminate')).toMatchObject({ status: 0, left: [] })
  })
})
