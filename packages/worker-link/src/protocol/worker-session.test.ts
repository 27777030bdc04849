import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { CkptError } from '@ckpt/contract'
import { Dealer } from 'zeromq'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { decodeRankMessage, encodeMessage, type RankMessage, type WorkerMessage } from './messages.ts'
import { processMark } from './process-watch.ts'
import { WorkerSession } from './worker-session.ts'

const RING = { kind: 'shm', name: 'ring', offset: 0, bytes: 64 } as const
const TOTALS = { tensors: 1, bytes: 4 }
const TENSOR = { name: 'a', dtype: 'F32', shape: [1], offset: 0, bytes: 4 } as const
const never = new AbortController().signal

/** A process's mark, as the process itself would report it. */
function markOf(pid: number): string {
  const start = readFileSync(`/proc/${pid}/stat`, 'latin1')
    .replace(/^.*\) /, '')
    .split(' ')[19]
  return `${processMark()!.split(':')[0]}:${start}`
}

/** A worker over a real socket that answers as the test specifies. */
class Worker {
  readonly socket = new Dealer({ linger: 0, receiveTimeout: 5000 })

  constructor(address: string) {
    this.socket.connect(address)
  }

  send(message: WorkerMessage): Promise<void> {
    return this.socket.send(encodeMessage(message))
  }

  greet(changes: { token?: string; protocol?: number; pid?: number; process?: string } = {}): Promise<void> {
    return this.send({ type: 'hello', protocol: 1, token: 'secret', pid: 1, engine: 'test', device: '', ...changes })
  }

  async receive(): Promise<RankMessage> {
    const [frame] = await this.socket.receive()
    return decodeRankMessage(frame!, 'the rank')
  }

  async ok(): Promise<RankMessage> {
    const message = await this.receive()
    await this.send({ type: 'ok', seq: message.seq, epoch: message.epoch, reloadMs: 2 })
    return message
  }
}

const disposable = (session: WorkerSession) => ({ session, [Symbol.dispose]: () => session.close() })

describe('a worker session', () => {
  let directory: string
  let session: WorkerSession
  let worker: Worker
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'ckpt-link-'))
    const address = `ipc://${join(directory, 'worker.sock')}`
    session = await WorkerSession.bind({ rank: 3, address, epoch: 7, timeoutMs: 1000 })
    session.admit('secret')
    worker = new Worker(address)
  })
  afterEach(() => {
    session.close()
    worker.socket.close()
    rmSync(directory, { recursive: true, force: true })
  })

  const attach = async () => {
    await worker.greet()
    const attached = session.attach(RING, TOTALS, never)
    expect(await worker.ok()).toMatchObject({ type: 'attach', seq: 1, epoch: 7, token: 'secret', ring: RING })
    await attached
  }

  it('goes from attach to commit, several buckets at a time', async () => {
    await attach()
    const loads = [session.load(0, [TENSOR]), session.load(1, [TENSOR])]
    expect(await worker.ok()).toMatchObject({ type: 'bucket', bucket: 0 })
    expect(await worker.ok()).toMatchObject({ type: 'bucket', bucket: 1 })
    expect(await Promise.all(loads)).toEqual([{ reloadMs: 2 }, { reloadMs: 2 }])
    const end = session.release().then(() => session.commit('v2', 'd'))
    expect(await worker.ok()).toMatchObject({ type: 'release' })
    expect(await worker.ok()).toMatchObject({ type: 'commit', version: 'v2' })
    await end
  })

  it.each([
    [{ token: 'guess' }, 'ENGINE_UNAUTHORIZED'],
    [{ protocol: 99 }, 'ENGINE_PROTOCOL'],
  ])('refuses a worker that greets with %o, and tells it so', async (greeting, code) => {
    await worker.greet(greeting)
    await expect(session.attach(RING, TOTALS, never)).rejects.toMatchObject({ code, fields: { rank: 3 } })
    expect(await worker.receive()).toMatchObject({ type: 'error', error: { type: code } })
  })

  it('hears a worker that connected before its token was known, and judges it by that token', async () => {
    for (const [token, code] of [
      ['late', undefined],
      ['guess', 'ENGINE_UNAUTHORIZED'],
    ] as const) {
      const address = `ipc://${join(directory, `${token}.sock`)}`
      using late = disposable(await WorkerSession.bind({ rank: 4, address, epoch: 8, timeoutMs: 5000 }))
      const early = new Worker(address)
      await early.greet({ token })
      let greeted = false
      const greeting = late.session.greeted(never).then(
        () => (greeted = true),
        (error: unknown) => error,
      )
      await sleep(100)
      expect(greeted).toBe(false)
      late.session.admit('late')
      if (code === undefined) expect(await greeting).toBe(true)
      else expect(await greeting).toMatchObject({ code })
      early.socket.close()
    }
  })

  it('ends when no worker connects', async () => {
    await expect(session.attach(RING, TOTALS, never)).rejects.toMatchObject({ code: 'ENGINE_UNREACHABLE' })
  })

  it('ends when the worker goes silent, naming what it owes', async () => {
    await attach()
    await expect(session.load(5, [TENSOR])).rejects.toMatchObject({
      code: 'ENGINE_WORKER_LOST',
      message: expect.stringContaining('bucket 5') as string,
    })
  })

  it('passes on the worker’s error with its traceback, fails what follows, and still sends the abort', async () => {
    await attach()
    const loads = [session.load(0, [TENSOR]), session.load(1, [TENSOR])].map((load) => load.catch((error: unknown) => error))
    const { seq } = await worker.receive()
    await worker.send({
      type: 'error',
      seq,
      epoch: 7,
      error: { type: 'ValueError', message: 'no such parameter', traceback: 'line 1', tensor: 'a' },
    })
    for (const load of loads) {
      expect(await load).toMatchObject({ code: 'ENGINE_WORKER_ERROR', fields: { rank: 3, traceback: 'line 1', tensor: 'a' } })
    }
    await expect(session.commit('v', 'd')).rejects.toMatchObject({ code: 'ENGINE_WORKER_ERROR' })
    const abort = session.abort('it failed')
    expect(await worker.receive()).toMatchObject({ type: 'bucket', bucket: 1 })
    expect(await worker.ok()).toMatchObject({ type: 'abort', reason: 'it failed' })
    await abort
  })

  it('fails a direct request with its attach, and leaves no rejection behind that ends the process', async () => {
    const unhandled: unknown[] = []
    const note = (error: unknown) => unhandled.push(error)
    process.on('unhandledRejection', note)
    try {
      await worker.greet()
      const attached = session.attach(null, TOTALS, never).catch((error: unknown) => error)
      const replayed = session.replay('routes').catch((error: unknown) => error)
      const { seq } = await worker.receive()
      expect(await worker.receive()).toMatchObject({ type: 'direct' })
      await worker.send({ type: 'error', seq, epoch: 7, error: { type: 'Error', message: 'no', traceback: '' } })
      expect(await attached).toMatchObject({ code: 'ENGINE_WORKER_ERROR' })
      expect(await replayed).toMatchObject({ code: 'ENGINE_WORKER_ERROR' })
      await sleep(10)
      expect(unhandled).toEqual([])
    } finally {
      process.off('unhandledRejection', note)
    }
  })

  it('tells a digest mismatch from other errors', async () => {
    await attach()
    const load = session.load(0, [TENSOR])
    const { seq } = await worker.receive()
    await worker.send({
      type: 'error',
      seq,
      epoch: 7,
      error: { type: 'DIGEST_MISMATCH', message: 'a differs', traceback: '', tensor: 'a' },
    })
    await expect(load).rejects.toMatchObject({ code: 'DIGEST_MISMATCH', fields: { tensor: 'a' } })
  })

  it('does not wait for a worker that committed to answer an abort', async () => {
    await attach()
    const commit = session.commit('v', 'd').catch((error: unknown) => error)
    const { seq } = await worker.receive()
    // Another rank's worker fails at its commit.
    session.fail(new CkptError('ABORTED', 'rank 1 aborted'))
    expect(await commit).toMatchObject({ code: 'ABORTED' })
    const started = performance.now()
    const abort = session.abort('it failed')
    await worker.send({ type: 'ok', seq, epoch: 7 })
    worker.socket.close() // it serves the new version and is gone
    await abort
    expect(performance.now() - started).toBeLessThan(500)
  })

  it('fails what was asked of a worker that had gone by then', async () => {
    await attach()
    worker.socket.close()
    await sleep(100) // until the rank's end has seen it
    const load = session.load(0, [TENSOR])
    await sleep(100)
    session.fail(new CkptError('ENGINE_WORKER_LOST', 'the engine’s call broke'))
    await expect(load).rejects.toMatchObject({ code: 'ENGINE_WORKER_LOST', message: 'the engine’s call broke' })
  })

  it('knows that the worker’s process died, though its connection is open', async () => {
    // Comparable to a child's socket: it remains when the process that greeted is killed.
    const child = spawn('sh', ['-c', 'echo; exec sleep 60'], { stdio: ['ignore', 'pipe', 'inherit'] })
    await once(child.stdout, 'data')
    await worker.greet({ pid: child.pid!, process: markOf(child.pid!) })
    const attached = session.attach(RING, TOTALS, never)
    await worker.ok()
    await attached
    const load = session.load(0, [TENSOR])
    child.kill('SIGKILL')
    const started = performance.now()
    await expect(load).rejects.toMatchObject({
      code: 'ENGINE_WORKER_LOST',
      message: expect.stringContaining(`process ${child.pid}`) as string,
      fields: { rank: 3 },
    })
    expect(performance.now() - started).toBeLessThan(600)
  })

  it('fails on a frame that is no message', async () => {
    await attach()
    await worker.socket.send(Buffer.from([0xc1]))
    await expect(session.load(0, [TENSOR])).rejects.toMatchObject({ code: 'ENGINE_PROTOCOL' })
  })
})
