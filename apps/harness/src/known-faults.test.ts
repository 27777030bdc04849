import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { ParameterServer, auto, controlEngine } from '@ckpt/core'
import { serveHttp } from '@ckpt/server'
import { headerFor } from '@ckpt/safetensors'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { EngineProcess, freePort, SOURCE_FLAGS } from '@ckpt/testing'
import { grouped, refusing } from './testing/confined.fixture.ts'

// Situations from docs/known-faults.md that involve several parts of ckpt at once.

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-known-'))
})
afterEach(() => {
  rmSync(directory, { recursive: true, force: true })
})

async function server(): Promise<ParameterServer> {
  return ParameterServer.create({ rank: 0, worldSize: 1, rendezvous: `tcp://127.0.0.1:${await freePort()}`, timeoutMs: 60_000 })
}

/** Writes a checkpoint of four tensors of one MiB each, with every byte `fill`. */
function write(file: string, fill: number): number {
  const bytes = 2 ** 20
  const tensors = ['a', 'b', 'c', 'd'].map((name) => ({ name, dtype: 'U8' as const, shape: [bytes], bytes }))
  const { header } = headerFor(tensors)
  writeFileSync(file, Buffer.concat([header, Buffer.alloc(4 * bytes, fill)]))
  return header.length + 4 * bytes
}

describe('a file in place that is cut short after it was registered', () => {
  const cuts = [
    ['to nothing', 'broadcast', () => 0],
    ['inside its header', 'auto', () => 100],
    ['by its last tensors', 'broadcast', (size: number) => size / 2],
    ['by its last page', 'broadcast', (size: number) => size - 1],
    ['by its last tensors', 'auto', (size: number) => size / 2],
  ] as const
  it.each(cuts)('%s (%s): the rank lives, names it, and commits nothing of it', async (_, strategy, cut) => {
    const shared = mkdtempSync('/dev/shm/ckpt-known-')
    const file = join(shared, 'model.safetensors')
    const size = write(file, 5)
    const process = new EngineProcess({ kind: 'typescript', directory, checkpoint: shared, tpRank: 0, tpSize: 1 })
    try {
      await process.ready()
      await using rank = await server()
      const engine = controlEngine({ socket: process.socket })
      const options = { engine, ...(strategy === 'auto' && { strategy: auto() }) }
      await rank.registerCheckpoint('a', { directory: shared }, { inPlace: true })
      await rank.update('a', { ...options, version: 'whole' })
      const page = Math.floor(cut(size))
      truncateSync(file, page)
      const error: unknown = await rank.update('a', { ...options, version: 'short' }).catch((thrown: unknown) => thrown)
      // Truncating inside the last page keeps the page: only bytes after the new end may differ.
      if (!CkptError.is(error)) throw new Error(`updated from a file of ${page} bytes: ${String(error)}`)
      expect(error.code).toBe('MEMORY_CHANGED')
      expect((await process.health()).version).not.toBe('short')
      // After registering again from a complete file, the same processes continue normally.
      await rank.unregisterCheckpoint('a')
      write(file, 6)
      await rank.registerCheckpoint('b', { directory: shared }, { inPlace: true })
      expect(await rank.update('b', { ...options, version: 'again' })).toMatchObject({ version: 'again' })
      expect(await process.verify([file])).toMatchObject({ verified: true })
    } finally {
      process.process.child.kill('SIGKILL')
      rmSync(shared, { recursive: true, force: true })
    }
  })
})

/** Allocates memory of each kind, and prints the result. */
const ALLOCATE = `
  const { loadNativeHost } = await import(${JSON.stringify(new URL('../../../native/host/index.mjs', import.meta.url).href)})
  const host = loadNativeHost()
  const results = []
  for (const shareable of [true, false]) {
    const bytes = 3 * 2 ** 20
    results.push(await host.allocate({ bytes, shareable, lock: false }).then(
      async (memory) => {
        await host.fill(memory, 0, bytes, 5n)
        return 'filled'
      },
      ({ code, message }) => ({ code, message }),
    ))
  }
  console.log(JSON.stringify(results))`

describe('what containers refuse', () => {
  const MEMFD_CREATE = 319
  it.skipIf(process.arch !== 'x64').each([
    ['EPERM', 1],
    ['EACCES', 13],
    ['ENOSYS', 38],
  ])('memfd_create (%s): shareable memory comes from /dev/shm', (_, error) => {
    const { status, stdout, stderr } = refusing(MEMFD_CREATE, error, ALLOCATE)
    expect(stderr).toBe('')
    expect([status, JSON.parse(stdout)]).toEqual([0, ['filled', 'filled']])
  })

  it('threads (pids.max): an error names the file and its number', (context) => {
    // As many as already exist: no more can be started.
    const limit = `
      const { readFileSync, writeFileSync } = await import('node:fs')
      writeFileSync(process.env.GROUP + '/pids.max', readFileSync(process.env.GROUP + '/pids.current'))`
    const ended = grouped('pids', 'pids.max', ALLOCATE.replace('const results', `${limit}\n  const results`))
    if (typeof ended === 'string') return context.skip(ended)
    const results = JSON.parse(ended.stdout) as unknown[]
    expect(results).toHaveLength(2)
    for (const result of results) {
      expect(result).toMatchObject({
        code: 'OUT_OF_MEMORY',
        message: expect.stringMatching(/cannot start a thread .*ckpt-test-\d+-pids[/]pids[.]max is \d+, \d+ of it used/),
      })
    }
  })
})

describe('the HTTP API behind load balancers', () => {
  /** The API's answer to a request over a connection that then stays silent or closes its sending half. */
  async function answer(path: string, half: boolean): Promise<string> {
    await using rank = await server()
    const socketPath = join(directory, 'api')
    const slow = async (app: { get(path: string, handler: () => Promise<string>): unknown }) => {
      app.get('/slow', () => new Promise((resolve) => setTimeout(() => resolve('at last'), 500)))
      await Promise.resolve()
    }
    await using _ = await serveHttp(rank, { socketPath, plugins: [slow] as never })
    const client = connect(socketPath)
    let text = ''
    await new Promise<void>((resolve, reject) => {
      client.once('error', reject).once('close', () => resolve())
      client.on('data', (data) => {
        text += data.toString()
        if (text.includes('at last')) client.destroy()
      })
      const request = `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`
      if (half) client.end(request)
      else client.write(request)
      setTimeout(() => client.destroy(), 20_000).unref()
    })
    return text
  }

  it('keeps idle connections for longer than they do (60 s, as a rule)', async () => {
    const [, seconds] = /keep-alive: timeout=(\d+)/i.exec(await answer('/slow', false)) ?? []
    expect(Number(seconds)).toBeGreaterThan(60)
  })

  it('answers a client that has closed its own half of the connection', async () => {
    expect(await answer('/slow', true)).toContain('at last')
  })
})

describe('a proxy that the environment names', () => {
  it('is not asked for engines', async () => {
    const asked: string[] = []
    const listening = async (name: string) => {
      const peer = createServer((request, response) => {
        asked.push(`${name} ${request.url}`)
        response.end('[]')
      })
      await new Promise<void>((resolve) => peer.listen(0, '127.0.0.1', resolve))
      return { peer, url: `http://127.0.0.1:${(peer.address() as AddressInfo).port}` }
    }
    const [engine, proxy] = [await listening('engine'), await listening('proxy')]
    // The value set before Node starts is used: newer versions read it then.
    const code = `
      const [{ vllm }, { sglang }] = await Promise.all([import('@ckpt/vllm'), import('@ckpt/sglang')])
      const ready = { rank: 0, timeoutMs: 20000, signal: new AbortController().signal }
      for (const make of [vllm, sglang]) await make({ url: '${engine.url}', parallelSize: 1 }).ready(ready)`
    const names = ['http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY', 'npm_config_proxy']
    const env = { ...process.env, NODE_USE_ENV_PROXY: '1', ...Object.fromEntries(names.map((name) => [name, proxy.url])) }
    const args = [...SOURCE_FLAGS, '--input-type=module', '-e', code]
    try {
      const failed = await new Promise((resolve) =>
        execFile(process.execPath, args, { env, cwd: import.meta.dirname, timeout: 60_000 }, resolve),
      )
      expect(failed).toBeNull()
    } finally {
      for (const { peer } of [engine, proxy]) peer.close()
    }
    expect(asked).toContain('engine /health')
    expect(asked).toContain('engine /ping')
    expect(asked.filter((what) => what.startsWith('proxy'))).toEqual([])
  })
})
