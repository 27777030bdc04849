import type { ChildProcess } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { tmpdir } from 'node:os'
import type { RankAccess } from '@ckpt/contract'
import { ParameterServer, controlEngine } from '@ckpt/core'
import { serveHttp } from '@ckpt/server'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { Cluster, EngineProcess, freePort, generateCheckpoint, type GeneratedCheckpoint, spawnSource } from '@ckpt/testing'
import { attemptAs, noOtherUser, type Targets } from './strangers/local.ts'

const NOBODY = 65_534
const host = createHost()

describe('while strangers try to get in', () => {
  let checkpoint: GeneratedCheckpoint
  beforeAll(async () => {
    checkpoint = await generateCheckpoint(host, model('qwen3-30b-a3b'), 24 * 2 ** 20, 11n)
  })
  afterAll(() => checkpoint[Symbol.dispose]())

  const start = (extra: readonly string[] = []) =>
    Cluster.start({
      ranks: 2,
      timeoutMs: 20_000,
      heartbeatTimeoutMs: 3000,
      engine: { kind: 'typescript', checkpoint: checkpoint.directory, extra: (rank) => (rank === 0 ? extra : []) },
    })

  it('over the network, in great numbers, updates go on in good time', async () => {
    await using cluster = await start()
    await cluster.register('a', checkpoint.directory)
    const quiet = await timed(cluster, 5)
    const before = await cluster.ranks[0]!.call('resources', undefined)
    const flood = spawnSource('flood', new URL('./strangers/flood.child.ts', import.meta.url), [new URL(cluster.address).port])
    await message(flood.child)
    const flooded = await timed(cluster, 40)
    const during = await cluster.ranks[0]!.call('resources', undefined)
    flood.child.send('report')
    const report = (await message(flood.child)) as { made: Record<string, number>; held: number }
    flood.child.disconnect()
    await flood.stop()
    for (const kind of ['silent', 'garbage', 'half a handshake', 'made-up handshake', 'huge frame', 'large command']) {
      expect(report.made[kind]).toBeGreaterThan(10)
    }
    expect(Math.max(...flooded)).toBeLessThan(5000)
    expect(during.residentBytes - before.residentBytes).toBeLessThan(512 * 2 ** 20)
    for (const engine of cluster.engines) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
    console.log(
      `updates of 24 MiB: median ${median(quiet)} ms alone, ${median(flooded)} ms (longest ${Math.max(...flooded)} ms) beside ${JSON.stringify(report)}`,
    )
  })

  it('over the network, at what ranks read from each other, they get nothing and hold up nobody', async () => {
    await using cluster = await start()
    await cluster.register('a', checkpoint.directory)
    await cluster.all('gatherMetas', () => ({ name: 'a', digests: true }))
    const directory = mkdtempSync(join(tmpdir(), 'ckpt-strangers-'))
    onTestFinished(() => rmSync(directory, { recursive: true }))
    const path = join(directory, 'metas')
    await cluster.ranks[0]!.call('saveMetas', { name: 'a', path })
    // Everything that a wiretap shows; the secret is never sent.
    const { access } = JSON.parse(readFileSync(path, 'utf8')) as { access: readonly RankAccess[] }
    const seen = access.map(({ points: [point] }) => ({
      address: point!.endpoint.addresses[0],
      id: point!.endpoint.id,
      key: point!.regions[0]!.key,
    }))
    expect(seen).toHaveLength(2)
    const update = async (version: string) => {
      const started = performance.now()
      await cluster.update('a', { version, p2p: [0, 1], timeoutMs: 5000 })
      return Math.round(performance.now() - started)
    }
    const quiet = await update('quiet')
    const strangers = spawnSource('strangers', new URL('./strangers/reads.child.ts', import.meta.url), [JSON.stringify(seen)])
    await message(strangers.child)
    const times: number[] = []
    for (let i = 0; i < 15; i++) times.push(await update(`v${i}`))
    strangers.child.send('report')
    const report = (await message(strangers.child)) as Record<'asked' | 'silent' | 'answered' | 'most' | 'bytes', number>
    strangers.child.disconnect()
    await strangers.stop()
    console.log(`p2p updates: ${quiet} ms alone, at most ${Math.max(...times)} ms beside ${JSON.stringify(report)}`)
    expect(report.asked).toBeGreaterThan(100)
    expect(report.answered).toBeGreaterThan(10)
    expect(report.bytes).toBe(0)
    expect(Math.max(...times)).toBeLessThan(5000)
    for (const engine of cluster.engines) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
  })

  it('at the HTTP API, they neither read, nor change, nor hold up anything', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'ckpt-strangers-'))
    onTestFinished(() => rmSync(directory, { recursive: true }))
    const options = { directory, checkpoint: checkpoint.directory, tpRank: 0, tpSize: 1 }
    const engine = new EngineProcess({ kind: 'typescript', ...options })
    onTestFinished(() => engine.process.stop())
    await engine.ready()
    const server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 5000 })
    onTestFinished(() => server.close())
    const token = 'a token of this test alone'
    const api = await serveHttp(server, {
      token,
      root: checkpoint.directory,
      engine: () => controlEngine({ socket: engine.socket }),
    })
    onTestFinished(() => api.close())
    const call = async (method: string, path: string, body: unknown, authorization: string) => {
      const headers = { authorization, ...(body !== undefined && { 'content-type': 'application/json' }) }
      const response = await fetch(api.address + path, {
        method,
        headers,
        ...(body !== undefined && { body: JSON.stringify(body) }),
      })
      return { status: response.status, text: await response.text() }
    }
    const own = (method: string, path: string, body?: unknown) =>
      call(method, `/v1/checkpoints/${path}`, body, `Bearer ${token}`)
    expect((await own('POST', 'a/files', { files: checkpoint.files })).status).toBe(200)

    // Requests that never end, and ones that end immediately, throughout the test.
    const port = Number(new URL(api.address).port)
    const slow = Array.from({ length: 200 }, (_, i) => {
      const socket = connect(port, '127.0.0.1')
      const head = i % 2 === 0 ? 'POST /v1/checkpoints/a/update HTTP/1.1\r\n' : 'GET / HT'
      socket
        .on('error', () => undefined)
        .write(i % 2 === 0 ? `${head}host: localhost\r\ncontent-length: 100000\r\n\r\n{` : head)
      return socket
    })
    onTestFinished(() => slow.forEach((socket) => void socket.destroy()))
    let over = false
    const refused: { status: number; text: string }[] = []
    const strangers = Array.from({ length: 4 }, async (_, i) => {
      while (!over) {
        const authorization = ['', 'Bearer wrong token of them', `Basic ${token}`, token][i]!
        refused.push(await call('POST', '/v1/checkpoints/evil/files', { files: checkpoint.files }, authorization))
        refused.push(await call('POST', '/v1/checkpoints/a/gather-metas', undefined, authorization))
        refused.push(await call('POST', '/v1/checkpoints/a/update', { timeout: 1 }, authorization))
        refused.push(await call('DELETE', '/v1/checkpoints/a?force=true', undefined, authorization))
        refused.push(await call('GET', '/metrics', undefined, authorization))
      }
    })
    const times: number[] = []
    for (let i = 0; i < 10; i++) {
      const started = performance.now()
      expect(await own('POST', 'a/update', { timeout: 5 })).toMatchObject({ status: 200 })
      times.push(Math.round(performance.now() - started))
    }
    over = true
    await Promise.all(strangers)
    console.log(
      `updates took at most ${Math.max(...times)} ms beside ${refused.length} requests of strangers and ${slow.length} that stay open`,
    )
    expect(refused.length).toBeGreaterThan(20)
    expect(new Set(refused.map(({ status }) => status))).toEqual(new Set([401]))
    for (const { text } of refused) expect(text).not.toContain(checkpoint.directory)
    expect((await own('DELETE', 'evil')).text).toContain('false')
    expect((await own('DELETE', 'a')).text).toContain('true')
    expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
  })

  it('as another user of the machine, they get nothing where no secret and no token was set', async ({ skip }) => {
    const cannot = noOtherUser()
    if (cannot !== undefined) skip(`no other user: ${cannot}`)
    const rendezvous = `tcp://127.0.0.1:${await freePort()}`
    const server = await ParameterServer.create({ rank: 0, worldSize: 1, elastic: true, rendezvous, timeoutMs: 5000 })
    onTestFinished(() => server.close())
    for (const address of ['127.0.0.1', '::1']) {
      const api = await serveHttp(server, { host: address })
      onTestFinished(() => api.close())
      const { port } = new URL(api.address)
      const hosts = address === '::1' ? ['[::1]'] : ['127.0.0.1', 'localhost']
      const asked = { read: [], write: [], list: [], connect: [], fetch: hosts.map((host) => `http://${host}:${port}/metrics`) }
      expect(new Set(Object.values(await attemptAs(0, asked)))).toEqual(new Set(['200']))
      expect(new Set(Object.values(await attemptAs(NOBODY, asked)))).toEqual(new Set(['403']))
    }
    // What ranks without a secret share: it exists once this rank has begun to wait for others.
    const secret = join(`/tmp/ckpt-user-${process.getuid!()}`, 'secret')
    expect(await attemptAs(0, { read: [secret], write: [], list: [], connect: [] })).toEqual({ [`read ${secret}`]: 'ok' })
    expect(await attemptAs(NOBODY, { read: [secret], write: [secret], list: [dirname(secret)], connect: [] })).toEqual({
      [`read ${secret}`]: 'EACCES',
      [`write ${secret}`]: 'EACCES',
      [`list ${dirname(secret)}`]: 'EACCES',
    })
  })

  it('as another user of the machine, they neither see, nor change, nor reach anything', async ({ skip }) => {
    const cannot = noOtherUser()
    if (cannot !== undefined) skip(`no other user: ${cannot}`)
    await using cluster = await start(['--stop-at-bucket', '3']) // so that the ring and the worker sockets stay for a while
    await cluster.register('a', checkpoint.directory)
    const updating = cluster.update('a', { bucketBytes: 2 ** 20 })
    updating.catch(() => undefined)
    const targets = await openTargets(cluster)
    try {
      // The same attempts work for the owning user.
      const own = await attemptAs(0, { ...targets, connect: targets.connect.slice(0, 1) })
      expect(new Set(Object.values(own))).toEqual(new Set(['ok']))
      const others = await attemptAs(NOBODY, targets)
      expect(Object.keys(others).length).toBeGreaterThan(20)
      expect(new Set(Object.values(others))).toEqual(new Set(['EACCES']))
    } finally {
      const { child } = cluster.engines[0]!.process
      // Its actions before it has stopped itself are lost.
      await expect.poll(() => readFileSync(`/proc/${child.pid}/stat`, 'utf8'), { timeout: 15_000 }).toMatch(/\) T /)
      child.kill('SIGCONT')
    }
    for (const report of await updating) expect(report).toMatchObject({ verified: 'sources' })
    for (const engine of cluster.engines) expect(await engine.verify(checkpoint.files)).toMatchObject({ verified: true })
    // No secret is readable by everyone.
    for (const { process: spawned } of [...cluster.ranks, ...cluster.engines]) {
      expect(readFileSync(`/proc/${spawned.child.pid}/cmdline`, 'utf8')).not.toContain(cluster.token)
    }
  })

  /** All named objects of a running update, after its worker sockets exist. */
  async function openTargets(cluster: Cluster): Promise<Targets> {
    const pids = [...cluster.ranks, ...cluster.engines].map(({ process: spawned }) => spawned.child.pid!)
    const root = process.env['XDG_RUNTIME_DIR'] ?? tmpdir()
    const deadline = Date.now() + 10_000
    for (;;) {
      const mine = (directory: string) =>
        readdirSync(directory)
          .filter((name) => pids.some((pid) => name.startsWith('ckpt-') && name.includes(`-${pid}-`)))
          .map((name) => join(directory, name))
      const shared = mine('/dev/shm')
      const directories = mine(root)
      const sockets = directories.flatMap((directory) => readdirSync(directory).map((name) => join(directory, name)))
      const workers = sockets.filter(
        (path) => /\/worker-[^/]*$/.test(path) && statSync(path, { throwIfNoEntry: false })?.isSocket(),
      )
      if (shared.length >= 2 && workers.length >= 2) {
        const controls = cluster.engines.map(({ socket }) => socket)
        return {
          read: [...shared, ...pids.flatMap((pid) => ['environ', 'mem', 'maps'].map((file) => `/proc/${pid}/${file}`))].filter(
            (path) => !path.endsWith('/mem'),
          ),
          write: [...shared, ...pids.map((pid) => `/proc/${pid}/mem`)],
          list: [...directories, ...pids.map((pid) => `/proc/${pid}/fd`), dirname(controls[0]!)],
          connect: [...controls, ...sockets],
        }
      }
      if (Date.now() > deadline) throw new Error(`only ${JSON.stringify({ shared, workers })} came up`)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  async function timed(cluster: Cluster, times: number): Promise<number[]> {
    const all: number[] = []
    for (let i = 0; i < times; i++) {
      const started = performance.now()
      await cluster.update('a', { version: `${i}`, keepAlive: true, timeoutMs: 5000 })
      all.push(Math.round(performance.now() - started))
    }
    return all
  }
})

function message(child: ChildProcess): Promise<unknown> {
  return new Promise((resolve, reject) => {
    child.once('message', resolve)
    child.once('exit', (code) => reject(new Error(`the flood ended with ${code}`)))
  })
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!
}
