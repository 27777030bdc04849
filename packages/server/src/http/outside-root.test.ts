import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { tensorAt } from '@ckpt/contract'
import { writeFile } from '@ckpt/safetensors'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { ParameterServer } from '@ckpt/core'
import { serveHttp, type HttpServer } from './serve.ts'

const ATTACK_MS = 20_000
const REQUESTS = 20_000
const AT_ONCE = 4

/** Switches a component of the request's path between a place inside the root and one outside, as fast as it can. */
const ATTACKER = `
const { workerData: { root, outside, stop, swaps } } = require('node:worker_threads')
const fs = require('node:fs')
const link = (target, name) => { fs.symlinkSync(target, root + '/t-' + name); fs.renameSync(root + '/t-' + name, root + '/' + name) }
while (Atomics.load(stop, 0) === 0) {
  for (const place of [root, outside]) {
    link(place + '/inner/a.safetensors', 'file.safetensors')
    link(place + '/inner', 'folder')
  }
  // Alternately a directory and a link to a directory outside.
  fs.renameSync(root + '/real', root + '/away'); fs.symlinkSync(outside + '/inner', root + '/real')
  fs.unlinkSync(root + '/real'); fs.renameSync(root + '/away', root + '/real')
  Atomics.add(swaps, 0, 1)
}
`

describe('files outside the checkpoint root', () => {
  let directory: string
  let server: ParameterServer
  let http: HttpServer
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'ckpt-outside-'))
    for (const [place, name] of [
      ['root/inner', 'inside'],
      ['root/real', 'inside'],
      ['outside/inner', 'secret'],
    ] as const) {
      mkdirSync(join(directory, place), { recursive: true })
      await writeFile(join(directory, place, 'a.safetensors'), [{ name, dtype: 'U8', shape: [3], data: Buffer.from('abc') }])
    }
    server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 10_000 })
    http = await serveHttp(server, { root: join(directory, 'root') })
  })
  afterEach(async () => {
    await http.close()
    await server.close()
    rmSync(directory, { recursive: true, force: true })
  })

  const register = async (name: string, file: string) => {
    const response = await fetch(`${http.address}/v1/checkpoints/${name}/files`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ files: [file] }),
    })
    return { status: response.status, text: await response.text() }
  }
  /** Names of a registered checkpoint's tensors, which is then unregistered. */
  const take = async (name: string): Promise<string[]> => {
    const { ranks } = await server.gatherMetas(name)
    const names = ranks.flatMap(({ tensors }) => Array.from({ length: tensors.count }, (_, i) => tensorAt(tensors, i).name))
    await server.unregisterCheckpoint(name)
    return names
  }

  it('are never registered, however fast links and directories are swapped', { timeout: 120_000 }, async () => {
    const [root, outside] = [join(directory, 'root'), join(directory, 'outside')]
    symlinkSync(join(root, 'inner/a.safetensors'), join(root, 'file.safetensors'))
    symlinkSync(join(root, 'inner'), join(root, 'folder'))
    const stop = new Int32Array(new SharedArrayBuffer(4))
    const swaps = new Int32Array(new SharedArrayBuffer(4))
    const attacker = new Worker(ATTACKER, { eval: true, workerData: { root, outside, stop, swaps } })
    const broken = new Promise<never>((_, reject) => attacker.once('error', reject))
    const seen = new Map<string, number>()
    const count = (what: string) => seen.set(what, (seen.get(what) ?? 0) + 1)
    const until = performance.now() + ATTACK_MS
    let sent = 0
    const ask = async (client: number) => {
      while (sent < REQUESTS && performance.now() < until) {
        const file = ['file.safetensors', 'folder/a.safetensors', 'real/a.safetensors'][sent++ % 3]!
        const { status, text } = await register(`c${client}`, file)
        if (status === 200) for (const name of await take(`c${client}`)) count(name)
        else count((JSON.parse(text) as { error: { code: string } }).error.code)
      }
    }
    try {
      await Promise.race([Promise.all(Array.from({ length: AT_ONCE }, (_, client) => ask(client))), broken])
    } finally {
      Atomics.store(stop, 0, 1)
      await attacker.terminate()
    }
    const found = JSON.stringify([...seen, sent, swaps[0]])
    expect(seen.get('secret') ?? 0, found).toBe(0)
    // The attack was effective: both places were hit, and requests for files inside succeeded.
    expect(seen.get('inside') ?? 0, found).toBeGreaterThan(0)
    expect(seen.get('INVALID_ARGUMENT') ?? 0, found).toBeGreaterThan(0)
    expect(swaps[0], found).toBeGreaterThan(100)
    for (const code of seen.keys()) {
      expect(['inside', 'INVALID_ARGUMENT', 'CHECKPOINT_CHANGED', 'CHECKPOINT_UNREADABLE']).toContain(code)
    }
  })

  it('are not reached by links, and files inside are, by links of either kind', async () => {
    const root = join(directory, 'root')
    symlinkSync(join(root, 'inner/a.safetensors'), join(root, 'absolute.safetensors'))
    symlinkSync('inner/../inner/a.safetensors', join(root, 'relative.safetensors'))
    symlinkSync('../outside/inner/a.safetensors', join(root, 'out.safetensors'))
    symlinkSync('/proc/self/root', join(root, 'magic'))
    for (const file of ['absolute.safetensors', 'relative.safetensors', 'inner/../real/a.safetensors']) {
      expect(await register('x', file), file).toMatchObject({ status: 200 })
      expect(await take('x')).toEqual(['inside'])
    }
    for (const file of [
      'out.safetensors',
      `magic${directory}/outside/inner/a.safetensors`,
      'inner/../../outside/inner/a.safetensors',
    ]) {
      const { status, text } = await register('x', file)
      expect(status, file).toBe(400)
      expect(text).not.toContain('secret')
    }
  })
})
